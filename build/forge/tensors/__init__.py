"""What a checkpoint stores, and how it is packed, bit for bit.

In: a recipe and the headers of safetensors files. Out: the plan of which tensor becomes what, the
packed bytes, and the configs that declare them. May import manifest, recipes and core; never
torch.
"""
