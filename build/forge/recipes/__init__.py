"""What is built, as data: one TOML file a variant, read into frozen models.

In: build/variants/*.toml. Out: a `Recipe`, whose every key was checked. May import core.
"""
