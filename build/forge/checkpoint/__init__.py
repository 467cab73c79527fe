"""The steps that write the checkpoint: quantize, graft, dress.

In: base, calibration record, recipe. Out: body shards, the MTP shard, configs and tokenizer, the
same bytes on any machine. May import calibration (the record alone), the pipeline, tensors,
manifest, recipes and core.
"""
