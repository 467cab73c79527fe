"""What every room stands on: errors, files and how they are placed, locks, signals, the store.

Also the checkout, the machine, and the client for the hub, which inputs and releases share. Imports
no other room. No module here may have the name of a standard module: `supervisor` is started as a
script, which puts this folder first on the path.
"""
