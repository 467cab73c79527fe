"""What every room stands on: errors, canonical JSON, the store, the checkout, the machine.

Imports nothing of Hallmark. No module here may have the name of a standard module: `leash` is
started as a script, which puts this folder first on the path.
"""
