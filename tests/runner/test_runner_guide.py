"""Every code block of the guide to models and runners, with only imports and names of the framework
changed."""

import abc
import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import pytest
import tiktoken
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from windtunnel.errors import UsageError
from windtunnel.runner import BasicModelRunner, LMBase, LMRunnerBase, MBase, read_checkpoint

MODEL_METHODS = '''
def _tokenize_str(sample: dict, device, trim=True) -> (Tensor, int):
    """Tokenize a single sample."""

def _tokenize_batch(batch: Sequence[dict], dont_pad=False) -> (Tensor, List[int]):
    """Tokenize and pad a batch of samples."""

def train_prompts(prompts: Sequence[dict], include_prompts=True) -> (List[str], Tensor, int):
    """Compute training loss on prompt/truth pairs."""

def generate_prompts(prompts: Sequence[dict], max_len: Optional[int]) -> List[str]:
    """Generate completions for prompts (no gradients)."""

def parameter_count() -> int:
    """Total number of parameters in the model."""
'''
FORWARD = '''
@abstractmethod
def forward(self, x: torch.Tensor, cache: Optional[List] = None) -> torch.Tensor:
    """Forward pass."""
'''
MY_MODEL = """
from windtunnel.runner import LMBase
from torch import nn

class MyModel(LMBase):
    def __init__(self, max_len=1024, embed_dim=768, **kwargs):
        super().__init__(
            name="my_model",
            max_len=max_len,
            embed_dim=embed_dim,
            **kwargs
        )
        self.tokenizer = tiktoken.get_encoding("gpt2")
        self.embedding = nn.Embedding(self.tokenizer.n_vocab, embed_dim)
        # ... rest of your architecture

    def forward(self, x, cache=None):
        # Your forward pass implementation
        # Return logits (and optionally updated cache for generation)
        pass
"""
RUNNER_METHODS = '''
def initialize(self,
               device: str,
               locations: Optional[Union[Sequence[str], str]] = None,
               for_train: bool = True,
               load_optimizer: bool = True,
               num_blocks: int = 6,
               **parameters):
    """Initialize the runner with a model on a device."""

def train(self,
          prompts: Sequence[dict],
          actual_samples_read: Optional[int] = None) -> (List[str], Tensor, int):
    """Execute one training step."""

def validate(self,
             prompts: Sequence[dict],
             actual_samples_read: Optional[int] = None) -> (List[str], Tensor, int):
    """Execute validation step (no gradients)."""

def generate(self,
             prompts: Sequence[str],
             max_len: Optional[int] = None) -> List[str]:
    """Generate text completions."""

def save(self, location: str, prod_save: bool = False):
    """Save model checkpoint."""

@abstractmethod
def _construct_model(self,
                     device,
                     model_weights: dict = None,
                     model_args: dict = None,
                     strict: bool = False,
                     **parameters) -> (LMBase, dict):
    """Construct model instance. Must be implemented by subclasses."""

def construct_optimizer(self,
                        device,
                        model: LMBase,
                        missing: List = None,
                        unexpected: List = None,
                        load_optimizer: bool = True,
                        optimizer_weights: dict = None,
                        **parameters) -> (Optimizer, dict, Optional[LRScheduler]):
    """Create optimizers (supports primary + secondary for multi-device AMP)."""
'''
BASIC_RUNNER = """
class BasicModelRunner(LMRunnerBase):
    def __init__(self,
                 model_class,
                 max_batch_size: int = 25,
                 overrides: dict = None,
                 **kwargs):
        super().__init__(max_batch_size=max_batch_size, **kwargs)
        self.model_class = model_class
        self.overrides = overrides or {}

    def _construct_model(self, device, model_weights=None, model_args=None,
                        strict=False, **parameters):
        # Merge parameters and overrides
        if model_args is None:
            model_args = {}

        model_args.update(parameters)
        model_args.update(self.overrides)

        # Instantiate
        model = self.model_class(**model_args)

        # Load weights if provided
        if model_weights is not None:
            missing, unexpected = model.load_state_dict(model_weights, strict=strict)
            model.to(device)
            return model, model.init_kwargs, missing, unexpected

        model.to(device)
        return model, model.init_kwargs
"""
CHECKPOINT = """
{
    'model': model_state_dict,              # Model weights
    'model_args': {...},                    # Model init parameters
    'optimizer': optimizer_state_dict,      # Optimizer state
    'optimizer_args': {...},                # Optimizer configuration
    'current_step': 'stage_name',           # For multi-stage training
    'stats': {...},                         # Training statistics (loss, accuracy)
    'step_stats': {                         # Per-stage statistics
        'stage_1': {...},
        'stage_2': {...},
    }
}
"""
CUSTOM_RUNNER = """
class CustomRunner(LMRunnerBase):
    def _construct_model(self, device, model_weights=None, **parameters):
        # Custom model construction logic
        model = MyModel(**parameters)
        if model_weights is not None:
            model.load_state_dict(model_weights)
        model.to(device)
        return model, model.init_kwargs

    def construct_optimizer(self, device, model, **parameters):
        # Custom optimizer setup (e.g., different optimizer, custom schedule)
        optimizer = torch.optim.AdamW(model.parameters())
        scheduler = ... # custom scheduler
        return optimizer, {}, scheduler
"""
DEVICE = '''
@property
def device(self):
    """Get model device from fc layer weights."""
    return self.fc.weight.device
'''
BATCHES = "batch_size = 50\nmini_batch_size = 4\n"
TOKENIZER = 'self.tokenizer = tiktoken.get_encoding("gpt2")\n'

PAIRS = [
    {"prompt": f"{word} and", "truth": f" {word} again"} for word in ("one", "two", "three", "four")
]


@pytest.fixture(autouse=True)
def _small_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's encoding must be fetched; a small one of the same class stands for it."""
    small = tiktoken.Encoding(
        name="gpt2",
        pat_str=r"\S+|\s+",
        mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: small)


def run(code: str, **more: Any) -> dict[str, Any]:
    names: dict[str, Any] = {
        "torch": torch, "nn": nn, "tiktoken": tiktoken, "Tensor": Tensor, "Sequence": Sequence,
        "List": list, "Optional": Optional, "Union": Union, "Optimizer": Optimizer,
        "LRScheduler": LRScheduler, "abstractmethod": abc.abstractmethod, "LMBase": LMBase,
        "LMRunnerBase": LMRunnerBase, **more,
    }  # fmt: skip
    exec(textwrap.dedent(code), names)
    return names


class Whole(run(MY_MODEL)["MyModel"]):
    """The guide's model, with the rest of its architecture."""

    def __init__(self, max_len: int = 1024, embed_dim: int = 768, num_blocks: int = 6, **kw: Any):
        with pytest.MonkeyPatch.context() as patch:
            _patched(patch)
            super().__init__(max_len=max_len, embed_dim=embed_dim, num_blocks=num_blocks, **kw)
        self.fc = nn.Linear(embed_dim, self.tokenizer.n_vocab)
        self.mix = nn.ModuleList(nn.Linear(embed_dim, embed_dim) for _ in range(num_blocks))

    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Tensor:
        y = self.embedding(x)
        y = y.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        for layer in self.mix:
            y = y + torch.tanh(layer(y))
        return self.fc(y)


def _patched(patch: pytest.MonkeyPatch) -> None:
    current = tiktoken.get_encoding
    if getattr(current, "__module__", "").startswith("tiktoken"):
        raise AssertionError("the real encoding would be fetched")
    patch.setattr(tiktoken, "get_encoding", current)


@pytest.mark.parametrize(
    ("block", "owner"), [(MODEL_METHODS, MBase), (FORWARD, LMBase), (RUNNER_METHODS, LMRunnerBase)]
)
def test_our_methods_take_what_the_guide_says(block: str, owner: type) -> None:
    written = {
        k: v for k, v in run(block).items() if inspect.isfunction(v) and k != "abstractmethod"
    }
    assert written
    for name, function in written.items():
        ours = list(inspect.signature(getattr(owner, name)).parameters.values())
        theirs = list(inspect.signature(function).parameters.values())
        theirs = [p for p in theirs if p.name != "self"]
        ours = [p for p in ours if p.name != "self" and p.kind is not p.KEYWORD_ONLY]
        assert [p.name for p in ours] == [p.name for p in theirs], name
        for one, other in zip(ours, theirs, strict=True):
            assert one.kind is other.kind
            if other.default is not other.empty:
                assert one.default == other.default, (name, one.name)
        abstract = getattr(function, "__isabstractmethod__", False)
        assert not abstract or getattr(getattr(owner, name), "__isabstractmethod__", False)


def test_the_guides_model_is_made_and_says_that_it_is_unfinished() -> None:
    model = run(MY_MODEL)["MyModel"](max_len=32, embed_dim=8, num_blocks=2)
    assert model.parameter_count() == 257 * 8
    assert model.init_kwargs == {"max_len": 32, "embed_dim": 8, "num_blocks": 2}
    with pytest.raises(UsageError, match=r"MyModel.forward must give logits .* it gave NoneType"):
        model.train_prompts(PAIRS)


@pytest.mark.parametrize("whose", ["ours", "the guide's"])
def test_the_guides_basic_runner_trains_saves_and_goes_on(whose: str, tmp_path: Path) -> None:
    made: Any = BasicModelRunner if whose == "ours" else run(BASIC_RUNNER)["BasicModelRunner"]
    torch.manual_seed(0)
    runner = made(Whole, max_batch_size=3, overrides={"embed_dim": 16})
    runner.initialize("cpu", num_blocks=2, max_len=48, lr=0.05)
    assert len(runner.model.mix) == 2
    first = float(runner.validate(PAIRS)[1])
    for _ in range(30):
        predictions, loss, count = runner.train(PAIRS)
    assert len(predictions) == len(PAIRS)
    assert count == sum(len(p["truth"]) + 1 for p in PAIRS)
    assert float(loss) < first - 1
    runner.save(str(tmp_path / "run"))
    runner.save(str(tmp_path / "lean"), prod_save=True)
    again = made(Whole, max_batch_size=2, overrides={"embed_dim": 16})
    again.initialize("cpu", str(tmp_path / "run"))
    assert again.stats == runner.stats
    assert not again.notes
    for _ in range(3):
        torch.testing.assert_close(again.train(PAIRS)[1], runner.train(PAIRS)[1])
    lean = made(Whole, overrides={"embed_dim": 16})
    lean.initialize("cpu", str(tmp_path / "lean"), for_train=False)
    assert not lean.model.training
    assert len(lean.generate(["one and", "two"], max_len=20)) == 2


def test_a_checkpoint_has_the_guides_parts(tmp_path: Path) -> None:
    wanted = eval(CHECKPOINT.strip(), {"model_state_dict": 1, "optimizer_state_dict": 2})
    runner = BasicModelRunner(Whole, overrides={"embed_dim": 8, "max_len": 48})
    runner.initialize("cpu", num_blocks=1)
    for runner.current_step in ("stage_1", "stage_2"):
        runner.train(PAIRS)
    runner.save(tmp_path / "run")
    found = read_checkpoint(tmp_path / "run")
    assert set(found) == set(wanted)
    assert found["model_args"] == {"max_len": 48, "embed_dim": 8, "num_blocks": 1}
    assert set(found["step_stats"]) == set(wanted["step_stats"])
    assert found["current_step"] == "stage_2"
    assert found["optimizer_args"]["optimizer"] == "adagrad"
    assert found["optimizer_args"]["lr"] == 6e-4
    assert found["optimizer_args"]["weight_decay"] == 0.0


def test_the_guides_custom_runner_overrides_model_and_optimizer() -> None:
    runner = run(CUSTOM_RUNNER, MyModel=Whole)["CustomRunner"]()
    runner.initialize("cpu", num_blocks=1, embed_dim=8, max_len=48)
    assert isinstance(runner.optimizer, torch.optim.AdamW)
    assert runner.scheduler is None, "the guide leaves it open with an ellipsis"
    before = runner.model.fc.weight.clone()
    runner.train(PAIRS)
    assert not torch.equal(before, runner.model.fc.weight)


def test_the_guides_device_property() -> None:
    class Placed(Whole):
        device = run(DEVICE)["device"]

    assert Placed(embed_dim=8, num_blocks=1).device == torch.device("cpu")


def test_the_guides_batches_of_four_are_one_of_fifty() -> None:
    sizes = run(BATCHES)
    samples = [{"prompt": f"{n} plus one is", "truth": f" {n + 1}" * (n % 4)} for n in range(50)]
    samples = samples[: sizes["batch_size"]]
    gradients = []
    for size in (sizes["mini_batch_size"], 1, 50):
        torch.manual_seed(0)
        runner = BasicModelRunner(Whole, max_batch_size=size)
        runner.initialize("cpu", num_blocks=1, embed_dim=8, max_len=48, optimizer="sgd", lr=1.0)
        before = {name: p.clone() for name, p in runner.model.double().named_parameters()}
        runner.initialize("cpu", num_blocks=1, embed_dim=8, max_len=48, optimizer="sgd", lr=1.0)
        runner.model.load_state_dict(before)
        runner.train(samples)
        gradients.append({n: before[n].float() - p for n, p in runner.model.named_parameters()})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_guides_tokenizer_ends_texts_as_it_says() -> None:
    class Holder:
        pass

    holder = Holder()
    run(TOKENIZER, self=holder)
    model = Whole(max_len=48, embed_dim=8, num_blocks=1)
    tokens, start = model._tokenize_str(PAIRS[0], "cpu")
    end = holder.tokenizer.eot_token
    assert tokens[0] == tokens[-1] == end
    assert holder.tokenizer.decode(tokens[start:-1].tolist()) == PAIRS[0]["truth"]
