"""UNFINISHED: a second delta, by which the pocket model is to know spoken requests as harmful.

A low-rank change of the language model's upper layers alone, trained on spoken requests, harmful
ones among them. Tower and projector stay as they are, so a clip is spoken, heard and projected
once; what is kept is what the projector says of it.

One whole run has been made: rank 16 on layers 10 to 29, seed 0, 2,864 clips heard (1,800 different
ones), 1,432 updates, one hour on one core; `HOLDING` was 6 up to 1,200 clips and 15 from there on.
Area under the ROC curve of a refusing first token, validation and test (n = 130 + 130):

    spoken 0.65 -> 0.75 [0.69, 0.81]      test alone (100 + 100) 0.66 -> 0.77 [0.71, 0.83]
    typed  0.95 -> 0.95                   its divergence 0.20 nats, four times what is allowed

Spoken requests of the test split with a refusing first token likelier than not: harmful 26 -> 73 of
100, harmless 7 -> 27 of 100, pseudo-harmful 3 -> 15 of 80, everyday 1 -> 0 of 80. On development
requests the areas stood still from 1,200 clips on, while the losses on clips in training had not
fallen far either (states 0.7 of their spread). So more minutes of this recipe would not reach the
0.83 that is wanted: the layers below 10 and the audio side have to learn, too, or states have to be
compared at the positions of the audio. No delta is shipped, the package knows nothing of it, and
no result rests on it.

To start it, or to go on where it was stopped, and to measure what was learnt:

    python -m training.understanding --folder runs/learnt --shards runs/shards --minutes 60
    python -m training.understanding.yardstick --delta runs/learnt/understanding.safetensors
"""
