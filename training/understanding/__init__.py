"""UNFINISHED: a second delta, by which the pocket model is to know spoken requests as harmful.

A low-rank change of the language model's upper layers alone, trained on spoken requests, harmful
ones among them. Tower and projector stay as they are, so a clip is spoken, heard and projected
once; what is kept is what the projector says of it.

What has run: 44 steps of learning, in the second edition of this code, before processor time ran
out; and, in this edition, two steps on one shard of 32 clips, whose delta `TwoDials` takes. They
say nothing about whether it works. What has not: a whole run, the measures on the way
(`development`), and the yardstick on a delta that was learnt. No delta is shipped, the package
knows nothing of it (`load_lalm` has the safety dial alone), and no result rests on it.

To start it, or to go on where it was stopped, and to measure what was learnt:

    python -m training.understanding --folder runs/learnt --shards runs/shards --minutes 60
    python -m training.understanding.yardstick --delta runs/learnt/understanding.safetensors
"""
