"""UNFINISHED: a second delta, by which the pocket model is to know spoken requests as harmful.

**Where knowledge gets lost** (`python -m training.understanding.diagnosis`; validation and test,
130 + 130 requests, something else in the clip's place each time; area under the ROC curve of a
refusing first token):

    the true tokens                                0.95 [0.92, 0.97]
    the tokens that the CTC head reads             0.92 [0.89, 0.95]
    those at their frames, silence between         0.87 [0.82, 0.91]
    the mixtures of embeddings that CTC expects    0.86 [0.81, 0.90]
    outputs moved 75% of the way to those          0.76
    outputs moved 50% of the way                   0.70
    outputs moved 25% of the way                   0.67
    the projector's outputs, as the model hears    0.65

So the ears hear, and the language model could know: a linear read-out of the projector's outputs
finds nearly the right tokens. But the outputs lie far from the embeddings that they stand for, and
the language model's layers do not make the words of them. (Their size is not the reason: outputs
divided by 1.5 to 4 gave 0.65 to 0.61. Nor is a linear map: one fitted to the mixtures, of whose
variance it gets three quarters right, gave 0.57.)

**What is tried here**: a low-rank adapter on the lower layers learns to make of a clip what these
layers make of its words' own embeddings, at each frame that says one and behind the clip. It hears
benign sentences alone; no harmful request is spoken. A prototype of this recipe (rank 32 on layers
0 to 11, 2,200 clips, 17 minutes of a shared core) moved the spoken area of the test split from 0.66
to 0.67, of the derive split from 0.70 to 0.75, typed answers by 0.017 nats; it stood still from
1,200 clips on, the states in layer 11 still 0.4 of their variance away from their aim. Probes for
harm on last-position states rose in the middle (layer 15: 0.75 to 0.78), not at the end (0.77 to
0.75). So the lower layers cannot clean the outputs up by themselves.

**What was tried before**: rank 16 on layers 10 to 29, with spoken *harmful* requests, answers,
states of the last position and ranking (2,864 clips, one hour on one core; commit be1e8d1 has the
code): spoken 0.65 -> 0.75 [0.69, 0.81], test alone 0.66 -> 0.77, harmful refused 26 -> 73 of 100,
harmless 7 -> 27 of 100, typed answers moved by 0.20 nats where 0.05 are allowed. That is what a
linear probe for harm on the unchanged model's last states reaches when it is fitted to the same
training requests (0.77; fitted to the derive split 0.81).

**What should come next**: the audio side itself has to say embeddings. Tower and projector trained
to say them at their frames (mean squares, benign sentences, the projector first set to the linear
map above) came from 0.68 of the variance to 0.56 in ten minutes of a shared core, and had not
stopped. About 0.06 is needed for an area of 0.78. Then this adapter, for what is left.

No delta is shipped, the package knows nothing of it, and no result rests on it. To start it, or to
go on where it was stopped, and to measure what was learnt:

    python -m training.understanding --folder runs/learnt --shards runs/shards --minutes 60
    python -m training.understanding.yardstick --delta runs/learnt/understanding.safetensors
"""
