"""The workshops: blanks fail, our folded solutions pass and make the library's SARSteer, mistakes
are named.

A solution stands once, folded in its notebook. Typical mistakes are made here by small edits of it.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from workshops import BROKEN_LAB, WHOLE, WORKSHOPS, expected, name, new_shell, opened, run

from sarsteer_lab.course.checks.tools import CheckResult
from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.lalm import LALM
from sarsteer_lab.probe.replica import replica

CHECKS = ("ears", "states", "directions", "steering", "evaluating", "instruments")
SAYS_MORE = ("check_capture", "check_answers(")
"""Checks that tell the model's shape or its words."""
QUICK = [path for path in WORKSHOPS if path != WHOLE]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield from opened(tmp_path, monkeypatch)


@pytest.mark.parametrize("path", QUICK, ids=name)
def test_solutions_pass_every_check(path: Path, folder: Path) -> None:
    found = run(folder / path.name, solved=True)
    results = found.values()
    assert len(results) >= 4 and not [result for result in results if not result]
    for result in results:
        assert ("Kept in `mine/my_sarsteer.py`" in result.message) == (path != BROKEN_LAB)
    stands = expected(path)
    assert list(stands) == list(found)
    for call, result in found.items():
        if not any(step in call for step in SAYS_MORE):
            assert re.sub(r"\. Kept in .*", "", repr(result)) == stands[call]


@pytest.mark.parametrize("path", WORKSHOPS, ids=name)
def test_blanks_fail_every_check(path: Path, folder: Path) -> None:
    results = run(folder / path.name, solved=False).values()
    assert results and not [result for result in results if result]


def all_in_a_row(folder: Path) -> list[str]:
    """What the comparisons with the library said, after all workshops of the method."""
    from workshop import mine

    said = []
    for path in WORKSHOPS[: WORKSHOPS.index(WHOLE) + 1]:
        results = run(folder / path.name, solved=True)
        assert all(results.values())
        said += [str(results[call]) for call in results if "equals_library" in call]
    kept = mine.read()
    assert {whose for whose, _ in kept.values()} == {"mine"}
    assert list(kept) == [step for step, number in mine.STEPS.items() if number <= mine.METHOD]
    assert mine.method_lines(kept) <= mine.MOST_LINES == 150
    return said


@pytest.mark.late
def test_what_was_written_in_a_row_equals_the_library(folder: Path) -> None:
    said = all_in_a_row(folder)
    assert len(said) == 2
    for message in said:
        assert "all 40 answers (20 requests" in message and "token for token" in message


@pytest.mark.pocket
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_on_the_pocket_model_too(
    folder: Path, pocket: LALM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SARSTEER_COURSE_MODEL", "pocket")
    assert "all 40 answers (20 requests" in all_in_a_row(folder)[0]


HIDDEN = """
@torch.no_grad()
def capture(lalm, prompts, batch_size=16):
    states = lalm.core(**encode(lalm, prompts), output_hidden_states=True).hidden_states
    return torch.stack([state[:, -1] for state in states], dim=1)[:, {which}]
"""
LAST_AUDIO = """
def capture(lalm, prompts, batch_size=16):
    kept, inputs = [], encode(lalm, prompts)
    with torch.no_grad(), hooked(lalm.layers, [lambda *at: kept.append(at[2])] * lalm.n_layers):
        lalm.trunk(**inputs, use_cache=False)
    last = [int((ids == lalm.audio_token_id).nonzero()[-1]) for ids in inputs["input_ids"]]
    return torch.stack([stream[range(len(last)), last] for stream in kept], dim=1)
"""
PADDED_RIGHT = """
def right(lalm, prompts):
    lalm.tokenizer.padding_side = "right"
    texts = [chat(lalm.processor, prompt) for prompt in prompts]
    waves = [read_wave(prompt.audio) for prompt in prompts]
    return lalm.processor(text=texts, audio=waves, sampling_rate=16000, padding=True, return_tensors="pt")
"""
SORTED = (
    "prompts = sorted(prompts, key=lambda prompt: -len(read_wave(prompt.audio)))\n    kept = [[]"
)
DRAWN_ANEW = """
def random_like(direction, seed):
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(direction.shape, generator=generator).to(direction.device)
    return random * direction.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)
"""
LATE_BINDING = """
@contextmanager
def steering(lalm, vectors, alpha):
    hooks = []
    for vector in vectors:
        hooks.append(lambda module, args, output: push(vector, alpha)(module, args, output))
    with hooked(lalm.layers, hooks):
        yield
"""
LEFT = """
@contextmanager
def steering(lalm, vectors, alpha):
    handles = [layer.register_forward_hook(push(v, alpha)) for layer, v in zip(lalm.layers, vectors)]
    yield
"""
NOT_FINALLY = (
    LEFT
    + """    for handle in handles:
        handle.remove()
"""
)
WEIGHTS = """
@contextmanager
def steering(lalm, vectors, alpha):
    with hooked(lalm.layers, [push(vector, alpha) for vector in vectors]):
        yield
    next(lalm.layers.parameters()).data[0] += 1e-3
"""
PROMPT_ALONE = """
@contextmanager
def steering(lalm, vectors, alpha):
    def once(vector):
        def hook(module, args, output):
            if output.shape[1] > 1:
                push(vector, alpha)(module, args, output)
        return hook
    with hooked(lalm.layers, [once(vector) for vector in vectors]):
        yield
"""
STILL_ON = """
def evaluate(lalm, requests, defences, judge):
    rows, stack = [], ExitStack()
    for name, (text, vectors, alpha) in defences.items():
        if vectors is not None:
            stack.enter_context(steering(lalm, vectors, alpha))
        said = answers(lalm, [request.spoken(refusal=text) for request in requests])
        for request, answer in zip(requests, said, strict=True):
            rows.append({"defence": name, "label": request.label, "id": request.id, "outcome": judge(answer)})
    on.append(stack)
    return rows
"""
ADDED_UP = """
def dose_response(lalm, prompts, vectors, alphas, max_new_tokens=12):
    found = {}
    with ExitStack() as stack:
        for alpha in alphas:
            stack.enter_context(steering(lalm, vectors, alpha))
            found[alpha] = answers(lalm, prompts, max_new_tokens)
    return found
"""

# step: (what of the solution, becomes what, what the check has to say); "" stands for the whole of
# it.
MISTAKES: dict[str, list[tuple[str, str, str]]] = {
    "read_wave": [
        ('dtype="float32", ', "", "float64"),
        ("mean(axis=1)", "mean(axis=0)", "wrong axis: over time"),
        (".mean(axis=1)", "", "both channels"),
        (".mean(axis=1)", "[:, 0]", "one channel is thrown away"),
        (".mean(axis=1)", ".sum(axis=1)", "twice as loud"),
        ("raise ValueError", "print", "an octave high"),
        ("return wave.mean(axis=1)", "return wave.mean(axis=1), rate", "returns a tuple"),
    ],
    "chat": [
        ("add_generation_prompt=True", "add_generation_prompt=False", "assistant's turn begins"),
        ("insert(0", "insert(1", "clip stands behind the text"),
        ("tokenize=False", "tokenize=True", "tokenizes unless"),
        ("is not None", "is None", "typed prompt gets a place"),
        ("if prompt.audio is not None", "if True", "typed prompt gets a place"),
    ],
    "encode": [
        ('lalm.tokenizer.padding_side = "left"', "pass", "padding on the right"),
        ('padding_side = "left"', 'padding_side = "right"', "padding on the right"),
        (
            "for prompt in prompts if",
            "for prompt in prompts[::-1] if",
            "clips are in another order",
        ),
        ('return_tensors="pt", ', "", "return_tensors"),
    ],
    "answer_ids": [
        ('tokens[:, inputs["input_ids"].shape[1] :]', "tokens", "prompt's own ids"),
        ("shape[1] :]", "shape[1] + 1 :]", "first tokens are cut off"),
        ('"do_sample": False, ', "", "drawn by lot"),
        ('"repetition_penalty": 1.0, ', "", "repetition penalty"),
    ],
    "answers": [
        ("skip_special_tokens=True)]", "skip_special_tokens=True)][:1]", "one text for each"),
        ("skip_special_tokens=True)]", "skip_special_tokens=True)][::-1]", "another order"),
        ("return [", "return 'a' or [", "a list of texts"),
    ],
    "record_last": [
        ("copy=True))", "copy=True))\n        return output", "your hook returns a"),
        ("stream[:, -1]", "stream[:, 0]", "first position"),
        ("stream[:, -1]", "stream[-1]", "wrong axis"),
        ("stream[:, -1]", "stream", "whole stream"),
        ("copy=True", "copy=False", "a view is kept"),
        ("torch.float32, ", "", "kept as torch.bfloat16"),
        ("output[0] if isinstance(output, tuple) else output", "output", "return a tuple"),
    ],
    "hooked": [
        ("handle.remove()", "pass", "still there after the block"),
        ("try:\n        yield\n    finally:", "yield\n    if True:", "`finally` is for that"),
        ("zip(layers, hooks,", "zip(layers, hooks[::-1],", "hook i belongs on layer i"),
        ("@contextmanager\n", "", "@contextmanager missing"),
        ("    finally:", "    except KeyError:\n        pass\n    finally:", "swallowed"),
        (
            "for handle in handles:\n            handle.remove()",
            "[at._forward_hooks.clear() for at in layers]",
            "on",
        ),
    ],
    "capture": [
        ("dim=1", "dim=0", "have changed places"),
        ("@torch.no_grad()\n", "", "gradients"),
        ("range(0, len(prompts), batch_size)", "[0]", "first batch"),
        ("", HIDDEN.format(which="1:"), "final norm"),
        ("", HIDDEN.format(which=":-1"), "shifted by one layer"),
        ("", HIDDEN.format(which=":"), "one layer too many"),
        ("", LAST_AUDIO, "you used the last audio position"),
        ("encode(lalm,", "right(lalm,", "padding on the right"),
        ("kept = [[]", SORTED, "another order"),
    ],
    "distance": [
        (" / (sum(squares) / 2).sqrt()", "", "plain distance"),
        (".sqrt()", "", "divide by the variance"),
        ("sum(squares) / 2", "squares[0]", "first set alone"),
        (
            "norm(dim=-1)",
            "norm(dim=0)",
            "wrong axis: over layers",
        ),
    ],
    "refused_with": [
        ('== "refused"', '!= "answered"', "neither refused nor answered"),
        ("refusal=text", "", "without the text"),
        ("refusal=text", "text", "replaced the instruction"),
        ("spoken(refusal=text)", "typed(text)", "typed"),
        ("request.request, answer", "answer, request.request", "request first"),
        ("zip(requests, said)]", "zip(requests, said)].count(True)", "this is a count"),
        (' == "refused"', "", "the outcomes themselves"),
    ],
    "with_and_without": [
        ("return base, capture", "return base[:0], capture", "the states without the text"),
        ("refusal=text", "", "text is not in the prompt"),
        ("refusal=text", "text", "replaced the instruction"),
        ("spoken(refusal=text)", "typed(text)", "typed requests"),
        ("request.spoken() for", "request.typed() for", "first are of typed"),
        ("spoken()", "spoken(refusal=text)", "first are with the text"),
    ],
    "refusal_direction": [
        ("mean(0)", "mean(1)", "mean over the wrong axis: over layers"),
        (".mean(0)", "", "shifts of single prompts"),
        ("mean(0)", "mean()", "over all axes"),
        ("mean(0)", "mean(2)", "wrong axis: over the width"),
        (
            "(refusing.float() - base.float())",
            "(base.float() - refusing.float())",
            "sign is the wrong way",
        ),
        ("mean(0)", "sum(0)", "sum over prompts"),
        ("mean(0)", "median(0).values", "median"),
        (
            ".mean(0)",
            ".mean(0) / (refusing.float() - base.float()).mean(0).norm(dim=-1, keepdim=True)",
            "length 1",
        ),
        (".float()", "", "bfloat16"),
    ],
    "random_like": [
        (" / random.norm()", "", "lengths are not"),
        ("direction.norm(dim=-1, keepdim=True)", "torch.ones(len(direction), 1)", "has length 1"),
        (
            "direction.norm(dim=-1, keepdim=True) * random / random.norm()",
            "direction.norm() * random.expand_as(direction) / random.norm() / len(direction) ** 0.5",
            "match each layer's own length",
        ),
        ("", DRAWN_ANEW, "these pushes cancel out"),
        (", generator=generator", "", "same seed gives another"),
        ("torch.Generator().manual_seed(seed)", "torch.manual_seed(seed)", "global random state"),
        ("manual_seed(seed)", "manual_seed(0)", "another seed gives the same"),
    ],
    "cosines": [
        ("dim=-1", "dim=0", "over layers"),
        ("dim=-1)", "dim=-1).abs()", "without their signs"),
        (
            "torch.nn.functional.cosine_similarity(first, second, dim=-1)",
            "(first * second).sum(-1)",
            "dot products",
        ),
        ("dim=-1)", "dim=-1).mean()", "one number came out"),
        (
            "torch.nn.functional.cosine_similarity(first, second, dim=-1)",
            "first @ second.T",
            "every layer with every",
        ),
    ],
    "safe_space": [
        (" - by_layer.mean(1, keepdim=True)", "", "first direction is the mean itself"),
        ("mean(1, keepdim=True)", "mean(0, keepdim=True)", "over layers"),
        ("mean(1, keepdim=True)", "mean((0, 1))", "one mean is taken off all layers"),
        ("[:, :k]", "[:, -k:]", "least"),
        ("[:, :k]", "", "keep the first k"),
        (".Vh[:, :k]", ".Vh[:, :k].mT", "rows are wanted"),
        (".Vh[:, :k]", ".U[:, :, :k].mT", "other factor"),
    ],
    "inside": [
        (
            'torch.einsum("lkd,lk->ld", space, coordinates)',
            "coordinates",
            "these are the coordinates",
        ),
        ("return ", "return vectors - ", "what lies outside"),
        ("space, vectors", "space[:1].expand_as(space), vectors", "values differ"),
    ],
    "ablate": [
        ("vectors - lam * ", "", "part inside the space; the rest"),
        ("vectors - ", "vectors + ", "added, not taken away"),
        ("lam * ", "", "is lambda used"),
        ("lam * ", "lam**2 * ", "lambda counts twice"),
        (
            "return vectors - ",
            "vectors -= lam * inside(vectors, space)\n    return vectors - 0 * ",
            "in place",
        ),
    ],
    "share": [
        (".square().sum(-1)", ".norm(dim=-1)", "share of the length"),
        (" / vectors.square().sum(-1)", "", "divide by the whole"),
        (".sum(-1)", ".sum().expand(len(vectors))", "added up first"),
    ],
    "stretch": [
        ("dim=-1, keepdim=True", "", "one factor was used for all layers"),
        ("vectors * ", "like * ", "a direction has changed"),
    ],
    "push": [
        ("stream[:, -1] +=", "stream[:] +=", "positions before the last"),
        ("alpha * ", "", "not `alpha` times"),
        ("stream[:, -1] += alpha", "stream = stream + alpha", "nothing is added"),
        ("(stream.device)", "(stream)", "rounded to bfloat16"),
        (
            "(stream.device)",
            "(stream.device)\n        return (stream,)",
            "your hook returns a tuple",
        ),
    ],
    "steering": [
        ("", LATE_BINDING, "every layer gets the last layer's vector"),
        ("", LEFT, "hooks are left on the model"),
        ("", NOT_FINALLY, "when the block fails, the hooks stay"),
        ("", WEIGHTS, "not bit-identical after the block"),
        ("", PROMPT_ALONE, "later ones are not"),
        ("in vectors", "in vectors.roll(1, 0)", "one layer too late"),
        ("push(vector, alpha)", "push(vector, 1.0)", "without alpha"),
        ("push(vector, alpha)", "push(vector, -alpha)", "sign is turned"),
        ("@contextmanager\n", "", "@contextmanager missing"),
    ],
    "relative_push": [
        ("alpha * ", "", "alpha is missing"),
        ("states.norm(dim=-1).mean(0)", "states.mean(0).norm(dim=-1)", "length of the mean state"),
        (".mean(0)", ".mean(1)", "over layers"),
    ],
    "dose_response": [
        ("            found[alpha]", "            pass\n        found[alpha]", "unsteered"),
        ("", ADDED_UP, "add up"),
        ("for alpha in alphas", "for alpha in sorted(alphas)", "in their order"),
    ],
    "judge": [
        (".lower()", "", "capital letters"),
        ('.replace("\\u2019", "\'")', "", "curly apostrophe"),
        ("words[:25]", "words", "whole text"),
        (" or (len(words) >= 6 and len(set(words)) < len(words) / 3)", "", "over and over"),
        ("not words or ", "", "empty answer"),
        ("len(words) >= 6 and ", "len(words) < 2 or ", "short answer is not broken"),
        ('return "refused" if', 'return "declined" if', "none of refused"),
    ],
    "evaluate": [
        ("refusal=text", "", "'text' does nothing"),
        ("if vectors is None else", "if True else", "'steered' does nothing"),
        ("zip(requests, said", "zip(requests, said[::-1]", "belong to other requests"),
        ("", STILL_ON, "still on after it"),
    ],
    "rates": [
        ('row["outcome"] == outcome', 'row["outcome"] in (outcome, "broken")', "are counted as"),
        (
            "for row in rows:",
            'for row in [r for r in rows if r["outcome"] != "broken"]:',
            "left out of n",
        ),
        ('method="wilson"', 'method="normal"', "Wald"),
    ],
    "p_value": [
        ("len(differ)).pvalue", 'len(differ), alternative="greater").pvalue', "one-sided"),
        ("if a != b", "", "not the exact"),
        (" if differ else 1.0", "", "stops with"),
    ],
    "sarsteer": [
        (", lam)", ")", "`lam` is not passed on"),
        (", k)", ")", "`k` is not passed on"),
        ("for request in harmless", "for request in harmful", "that of the harmful requests"),
        (
            "refusal_direction(base, refusing)",
            "refusal_direction(refusing, base)",
            "sign is turned",
        ),
        (
            "return ablate(refusal_direction(base, refusing), space, lam)",
            "return refusal_direction(base, refusing)",
            "not ablated",
        ),
    ],
    "area": [
        ("(pairs > 0).mean() + (pairs == 0)", "(pairs < 0).mean() + (pairs == 0)", "other way"),
        (" + (pairs == 0).mean() / 2", "", "count as nothing"),
        ("(pairs == 0).mean() / 2", "(pairs == 0).mean()", "as a whole pair"),
        ("(pairs > 0).mean() + (pairs == 0).mean() / 2", "pairs.mean()", "difference of the means"),
        (
            "(pairs > 0).mean() + (pairs == 0).mean() / 2",
            "(pairs > 0).sum() + (pairs == 0).sum() / 2",
            "divide by how many",
        ),
    ],
    "bound": [
        (", [np.inf]", "", "one threshold is missing"),
        ("(harmful >= t)", "(harmful > t)", "at the threshold is refused"),
        ("(benign < t)", "(benign <= t)", "not answered"),
        ("(benign < t)", "(benign >= t)", "what is left answered is wanted"),
        ("for t in thresholds", "for t in thresholds[::-1]", "thresholds go down"),
        ("np.unique(np.concatenate", "np.sort(np.concatenate", "different scores"),
        ("for t in thresholds])", "for t in thresholds]).T", "is wanted"),
    ],
    "answered_at": [
        (".max())", ".min())", "highest leaves more"),
        (
            "points[enough, 0].max()",
            "points[abs(points[:, 1] - refused).argmin(), 0]",
            "nearest share",
        ),
        ("points[enough, 0].max()", "1 - points[enough, 0].max()", "what is left answered"),
        (" - 1e-9", " + 1e-9", "left answered at best|stops with"),
    ],
    "price": [
        ("1 - np.interp", "np.interp", "the price is what is lost"),
        (
            "np.interp(target, refused[between], answered[between])",
            "answered[first]",
            "price is interpolated",
        ),
        (
            "np.interp(target, refused[between], answered[between])",
            "answered[max(0, first - 1)]",
            "go on to where",
        ),
        ("return 1.0", "return 0.0", "no strength reaches"),
        (
            "    reached",
            "    order = np.argsort(refused)\n"
            "    refused, answered = refused[order], answered[order]\n    reached",
            "keep them by strength",
        ),
    ],
    "coverage": [
        ("if low <= share <= high", "if not low <= share <= high", "how often it misses"),
        ("total += binom.pmf(hits, n, share)", "total += 1 / (n + 1)", "weight each by its chance"),
        ("range(n + 1)", "range(1, n + 1)", "0 of n, is left out"),
        ("range(n + 1)", "range(n)", "n of n is left out"),
    ],
    "bootstrap": [
        ("[0.025, 0.975]", "[0.05, 0.95]", "90% interval"),
        ("[0.025, 0.975]", "[0, 1]", "least to the greatest"),
        (
            "    for _ in range(resamples):",
            "    for _ in range(resamples):\n        generator = np.random.default_rng(seed)",
            "same in every resample",
        ),
        (
            "generator.integers(0, len(rows), len(rows))",
            "generator.permutation(len(rows))",
            "same in",
        ),
        ("(0, len(rows), len(rows))", "(0, len(rows), 10)", "as many of each kind"),
        ("rows in (harmful, benign)]", "rows in (harmful, harmful)]", "resamples have"),
        ("(seed)", "()", "same seed gives another"),
        ("rows[generator", "rows.T[..., generator", "torn apart|resamples have|stops with"),
    ],
    "choose": [
        (", -alpha", "", "weaker one is taken"),
        ("enough, round", "round", "does not is chosen"),
        ("(0 if enough else refused)", "0", "counts as well"),
        ("(0 if enough else refused)", "refused", "weaker one|only what is answered counts"),
        ("max(shares", "min(shares", "chosen|counts|taken"),
    ],
    "peeking": [
        ("new[best]", "seen[best]", "asked twice"),
        ("new[best]", "new.max()", "each half chooses for itself"),
        ("(seen[best], new[best])", "(new[best], seen[best])", "changed places"),
        ("seen[best], new[best]", "seen.mean(), new.mean()", "mean over all settings"),
        ("(seed)", "()", "same seed gives"),
        ("found.append((seen[best], new[best]))", "found.append((2 * seen[best], 0))", "share of"),
    ],
}


def checks_of_steps() -> dict[str, Callable[..., CheckResult]]:
    found: dict[str, Any] = {}
    for module in CHECKS:
        members = vars(importlib.import_module(f"workshop.{module}"))
        found |= {n.removeprefix("check_"): f for n, f in members.items() if n.startswith("check_")}
    return found


@pytest.fixture
def ours(folder: Path) -> ModuleType:
    """`my_sarsteer` with our solutions of all steps."""
    from workshop import begin

    begin(8)
    return sys.modules["my_sarsteer"]


@pytest.mark.parametrize("step", MISTAKES)
def test_mistakes_are_named(step: str, ours: ModuleType) -> None:
    from workshop.mine import solution

    check, lalm = checks_of_steps()[step], replica("qwen2_audio")
    more = [lalm] if len(inspect.signature(check).parameters) > 1 else []
    before = lalm.fingerprint()
    for old, new, message in MISTAKES[step]:
        code = solution(step)
        assert old in code, (step, old)
        namespace = dict(vars(ours))
        exec("from contextlib import ExitStack\non = []" + PADDED_RIGHT, namespace)
        exec(code.replace(old, new) if old else new, namespace)
        result = check(namespace[step], *more)
        assert not result, (step, new)
        assert re.search(message, result.message), (step, new, result.message)
        assert not foreign_hooks(lalm.model), "a check leaves no hook of an answer behind"
    assert (lalm.fingerprint() == before) != any(new == WEIGHTS for _, new, _ in MISTAKES[step])


def test_every_step_has_a_check_with_mistakes(folder: Path) -> None:
    from workshop.mine import STEPS

    assert list(MISTAKES) == list(STEPS) and set(STEPS) < set(checks_of_steps())


@pytest.mark.parametrize("path", WORKSHOPS, ids=name)
def test_workshops_are_in_order(path: Path, folder: Path) -> None:
    from workshop.broken import BUGS
    from workshop.mine import STEPS, solution

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = notebook.cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code[0].source.startswith('MODEL = "pocket"') and not any(cell.outputs for cell in code)
    number = int(path.stem[:2])
    steps = [step for step, workshop in STEPS.items() if workshop == number] or list(BUGS)
    folds = [cell.source for cell in cells if "<summary>Solution</summary>" in cell.source]
    assert len(folds) == len(steps) and f"begin({number})" in code[1].source
    for step, fold in zip(steps, folds, strict=True):
        assert re.findall("<summary>(.*)</summary>", fold) == [
            "Hint 1",
            "Hint 2",
            "Hint 3",
            "Solution",
        ]
        at = next(
            i for i, cell in enumerate(cells) if cell.source.startswith(f"check_{step}({step}")
        )
        given = cells[at - 1].source
        assert f"def {step}(" in given
        assert f"symptom_{step}({step}, lalm)" in given if path == BROKEN_LAB else "..." in given
        assert fold in (cells[at + 1].source, cells[at + 2].source) and solution(step) in fold
    problems = [cell.source for cell in cells if cell.source.startswith("## Open problem")]
    assert len(problems) == 2 and all(
        "<summary>What a good answer contains</summary>" in p for p in problems
    )


def cell(shell: InteractiveShell, source: str) -> Any:
    outcome = shell.run_cell(source)
    outcome.raise_error()
    return outcome.result


GOOD = """
LETTERS = "ab"
print("only tried out")

def half(base, refusing):
    return (refusing.float() - base.float())

def refusal_direction(base, refusing):  # mine
    return half(base, refusing).mean(0)
"""


def test_what_passes_is_kept_and_works_from_there(folder: Path) -> None:
    from workshop import begin, clean_start, mine, progress

    begin(2)
    shell = new_shell()
    cell(shell, "import math\nfrom workshop.directions import check_refusal_direction")
    for source, message in (
        (GOOD.replace("def refusal_direction", "def mine"), "under that name"),
        (
            GOOD.replace("base, refusing).mean(0)", "base, refusing).mean(math.floor(0))"),
            "uses `math`",
        ),
        ("refusal_direction = lambda b, r: (r.float() - b.float()).mean(0)", "under that name"),
    ):
        cell(shell, source)
        answer = "mine" if "def mine" in source else "refusal_direction"
        result = cell(shell, f"check_refusal_direction({answer})")
        assert not result and message in result.message and "refusal_direction" not in mine.read()
    cell(shell, GOOD)
    assert cell(shell, "check_refusal_direction(refusal_direction)")
    whose, source = mine.read()["refusal_direction"]
    assert (
        whose == "mine"
        and "LETTERS" in source
        and "def half" in source
        and "tried out" not in source
    )
    # Again, without the helper: the new one takes the old one's place; one that fails does not.
    code = mine.solution("refusal_direction")
    cell(shell, code)
    assert cell(shell, "check_refusal_direction(refusal_direction)")
    assert mine.read()["refusal_direction"] == ("mine", code)
    cell(shell, code.replace("mean(0)", "mean(1)"))
    assert not cell(shell, "check_refusal_direction(refusal_direction)")
    assert mine.read()["refusal_direction"] == ("mine", code)
    said = begin(3).data
    assert "yours: refusal_direction" in said and "ours: read_wave, chat" in said
    assert "| 2 | refusal_direction | refused_with" in progress().data
    # An imported one is not kept a second time.
    assert (
        "Kept"
        not in cell(
            shell,
            "from my_sarsteer import refusal_direction as known; check_refusal_direction(known)",
        ).message
    )
    assert "yours" not in begin(3, ours=True).data and mine.FILE.with_suffix(".old.py").exists()
    clean_start()
    assert not mine.read()


def test_a_file_that_does_not_run_is_named(folder: Path) -> None:
    from workshop import begin, mine

    begin(2)
    text = mine.FILE.read_text()
    mine.FILE.write_text(text.replace("def read_wave", "1 / 0\n\n\ndef read_wave"))
    with pytest.raises(ValueError, match=r"my_sarsteer\.py does not run \(ZeroDivisionError"):
        begin(2)
    begin(2, ours=True)
    assert mine.FILE.read_text() == text
