"""How the pocket model comes to know spoken harm: two dials of its projector.

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
the language model's layers do not make the words of them.

**The understanding dial** therefore has the projector say these mixtures (`pocket.soft_tokens`).
Nothing is trained for it but the CTC head, which the ears' own training has left behind. No harmful
request is spoken, the language model is unchanged, typed requests are answered as before to the
bit.

    understanding, spoken safety    0 0     0.25 0  0.5 0   0.75 0  1 0     1 1
    area, validation and test       0.65    0.67    0.70    0.76    0.86    0.91
    the same, heard right           0.63    0.65    0.69    0.75    0.83    0.91

**The spoken safety dial** is an openly labelled second step: a small convolution over the mixtures
learns from spoken requests of the training file, harmful ones among them, to have the language
model make of a clip what it makes of the typed tokens (`learn`). None is close to a shipped prompt.

**A gap to steer** is left with the safety dial at 1, understanding at 1 and spoken safety at 0.3:
the model refuses 70 of 100 spoken harmful test requests, SARSteer as chosen on validation 86, with
196 of 260 benign ones answered. To turn the safety dial down instead leaves a gap, too, but at 0.7
and 0.8 no uniform push could refuse 85% and leave more than 74 and 76% answered (here 79%).

What was tried before and did not work, each on two shared CPU cores:

- A low-rank adapter (rank 16, all layers) on what the mixtures say, benign speech alone, states at
  the tokens' frames and behind the clip, answers: after 1,600 clips validation 0.84 -> 0.81, typed
  area 0.95 -> 0.90, typed answers 0.12 nats away. A language model that is changed forgets its
  safety when only benign requests are held.
- The same (rank 32, layers 0 to 11) on the projector's own outputs: 2,200 clips, test 0.66 -> 0.67.
- Rank 16 on layers 10 to 29 with spoken harmful requests, on the projector's own outputs (2,864
  clips, an hour; commit be1e8d1): test 0.66 -> 0.77, typed answers 0.20 nats away. A linear probe
  of the unchanged last states, fitted to the same requests, reaches the same 0.77.
- Outputs scaled by 1/1.5 to 1/4: 0.65 to 0.61. A linear map fitted to the mixtures (R^2 0.75):
  0.57. Sharper mixtures (temperature 0.5, 0.25) or rarer blanks: no better than 0.01.
- Tower and projector trained to say embeddings at their frames by themselves: 0.68 -> 0.56 of the
  variance in ten minutes, where some 0.06 are needed.

- Twenty minutes more from what ships, the same requests also spoken by Kokoro (600 clips in its
  training voices, none of a test clip's): 2,384 clips later the areas on requests kept apart,
  derive and validation were 0.80, 0.88 and 0.89, where 0.81, 0.91 and 0.92 ship.
- A transformer over the whole clip in the convolution's place (three layers, width 256, 3 million
  weights, outputs and mixtures in), all states behind the clip compared, bfloat16: 0.77, 0.91 and
  0.90 after 5,552 clips, of 7,582 that were there (3,291 requests in two voices each, and 1,000 by
  Kokoro), stopped at half its time. So weights are not what is missing. On clips trained on, what
  ships has 0.87, where their typed tokens have 0.97, and the tokens that the head reads have 0.92
  on validation and test: the ears are the limit.

To train, or to go on where it was stopped; to measure; to ask with defences:

    python -m training.understanding --folder runs/spoken --shards runs/shards --minutes 32
    python -m training.understanding.yardstick --learnt runs/spoken/spoken_safety.safetensors --read
    python -m training.understanding.steered --learnt runs/spoken/spoken_safety.safetensors \\
        --folder runs/steered --settings "1 1 0.3" --controls
    python -m training.understanding.reached --folder runs/steered

With `--labels harmless pseudo-harmful everyday` it hears no harmful request: what alignment alone
gives.
"""
