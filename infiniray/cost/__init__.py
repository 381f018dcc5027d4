"""What things cost: prices, the functions' ledger, FAST'20's closed form, and the alternatives.

Pure arithmetic over a price book; it knows neither the cache nor the simulator, and both may use it.
"""
