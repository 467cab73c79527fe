"""What every room stands on: errors, canonical JSON, the store, the checkout, the machine.

Also the client for the hub, which inputs and releases share. Imports nothing of Hallmark. No module
here may have the name of a standard module: `supervisor` is started as a script, which puts this
folder first on the path.
"""
