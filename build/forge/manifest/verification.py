"""`verification.json`: what the assay found, and the rule that nothing measured is a failure.

The checks are a closed list (`expected`), each with figures of its own. A verdict is a function of
figures and recipe (:meth:`Figures.problem`): the gate has it from there, and so does a stranger,
who ignores the verdicts in the report (`refutation`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator

from forge.core.model import Level, Maybe, Model, mistake
from forge.manifest import call_figures as called
from forge.manifest import probe_figures as probed
from forge.manifest import served_figures as served
from forge.manifest import stored_figures as stored
from forge.manifest.measured import AnyFigures, Figures
from forge.manifest.own_engine import NOT_LOCKED, OwnEngine
from forge.recipes.recipe import Recipe

LEVELS = ("none", "structure", "all")

Name = TypeVar("Name", bound=str)
Measured = TypeVar("Measured", bound=Figures)


class UnmeasuredError(Exception):
    """A check could not measure what it is to judge; the message says why."""


class Check(Model, Generic[Name, Measured]):
    """One verdict of the assay, and the figures that it rests on; without any it has failed."""

    # The classes of single checks have no docstring of their own.
    model_config = ConfigDict(json_schema_extra={"description": __doc__})

    name: Name
    passed: bool
    problem: Maybe[str] = Field(default=None, description="Why it failed.")
    measured: Measured | None = Field(description="Null if nothing could be.")

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """The name of a check of one kind, for schemas and messages."""
        return f"Check of {'.'.join(map(str, get_args(params[0])))}"

    @model_validator(mode="after")
    def _nothing_passes_unmeasured(self) -> Self:
        if self.passed != (self.problem is None):
            raise ValueError("a check has failed exactly if it has a problem")
        if self.passed and self.measured is None:
            raise ValueError("a check that measured nothing has failed")
        return self

    @property
    def told(self) -> str:
        """Its problem, or what it measured."""
        return self.problem or (self.measured.told if self.measured else "")


AnyCheck = Annotated[
    Check[Literal["structure.index"], stored.Index]
    | Check[Literal["structure.names"], stored.Names]
    | Check[Literal["structure.digests"], stored.Digests]
    | Check[Literal["structure.sources"], stored.Sources]
    | Check[Literal["structure.mtp"], stored.Head]
    | Check[Literal["structure.kept"], stored.Kept]
    | Check[Literal["structure.quantized"], stored.Quantized]
    | Check[Literal["structure.scales"], stored.Scales]
    | Check[Literal["structure.siblings"], stored.Siblings]
    | Check[Literal["structure.parallel"], stored.Parallel]
    | Check[Literal["structure.ignore"], stored.Ignore]
    | Check[Literal["structure.config"], stored.Declared]
    | Check[Literal["structure.files"], stored.Files]
    | Check[Literal["structure.weights"], stored.Weights]
    | Check[Literal["smoke.profiles"], served.Profiles]
    | Check[Literal["smoke.tool_parser"], called.ToolParser]
    | Check[Literal["smoke.health"], served.Health]
    | Check[Literal["smoke.chat.thinking_on"], served.Thinking]
    | Check[Literal["smoke.chat.thinking_off"], served.NoThinking]
    | Check[Literal["smoke.scripts"], probed.Scripts]
    | Check[Literal["smoke.stop"], probed.Stop]
    | Check[Literal["smoke.streaming"], probed.Streaming]
    | Check[Literal["smoke.tool_call"], called.ToolCall]
    | Check[Literal["smoke.tool_nested"], called.ToolNested]
    | Check[Literal["smoke.image"], served.Image]
    | Check[Literal["smoke.image_refused"], served.ImageRefused]
    | Check[Literal["smoke.logprobs"], probed.Logprobs]
    | Check[Literal["smoke.long_prompt"], probed.LongPrompt]
    | Check[Literal["smoke.concurrent"], served.Concurrent]
    | Check[Literal["smoke.mtp"], served.Drafts]
    | Check[Literal["smoke.greedy_identical"], served.Greedy]
    | Check[Literal["smoke.mtp_speed"], probed.Pace]
    | Check[Literal["perplexity"], served.Perplexity],
    Field(discriminator="name"),
]
# The model of each check by its name, in the order of a report.
KINDS: Mapping[str, type[Check[Any, Any]]] = {
    name: kind
    for kind in get_args(get_args(AnyCheck)[0])
    for name in get_args(kind.model_fields["name"].annotation)
}
STRUCTURE = tuple(name for name in KINDS if name.startswith("structure."))


def expected(recipe: Recipe, level: Level) -> tuple[str, ...]:
    """The checks of a level: all that a build of this recipe must have passed, and no other."""
    if level == "none":
        return ()
    if level == "structure":
        return STRUCTURE
    none = {"smoke.image"} if recipe.serve.text_only else {"smoke.image_refused"}
    if recipe.serve.speculative_tokens is None:
        none |= {"smoke.mtp", "smoke.greedy_identical", "smoke.mtp_speed"}
    return tuple(name for name in KINDS if name not in none)


class Report(Model):
    """What the assay found in a build."""

    variant: str
    level: Level = Field(description="How far the build was verified.")
    passed: bool = Field(description="Whether there are all checks of the level and all passed.")
    checks: tuple[AnyCheck, ...]
    own_engine: Maybe[OwnEngine] = Field(
        default=None,
        description="Set if the engine was not the locked one. No release has such a report.",
    )

    @model_validator(mode="after")
    def _all_passed(self) -> Self:
        if self.passed and not all(check.passed for check in self.checks):
            raise ValueError("passed, though a check has failed")
        return self

    def figures(self, kind: type[AnyFigures]) -> AnyFigures | None:
        """The figures of this kind, if there are any."""
        found = (check.measured for check in self.checks)
        return next((measured for measured in found if isinstance(measured, kind)), None)


def check(name: str, recipe: Recipe, measure: Callable[[], Figures]) -> Check[Any, Any]:
    """The check of what `measure` finds; failed if there is nothing to find."""
    try:
        figures = measure()
    except UnmeasuredError as error:
        return failed(name, str(error))
    except ValidationError as error:
        return failed(name, f"the figures are not valid: {mistake(error)}")
    problem = figures.problem(recipe)
    return KINDS[name](name=name, passed=problem is None, problem=problem, measured=figures)


def failed(name: str, problem: str) -> Check[Any, Any]:
    """A check that could not be made."""
    return KINDS[name](name=name, passed=False, problem=problem or "for no reason", measured=None)


def passed(checks: Sequence[Check[Any, Any]]) -> bool:
    """Whether there are checks and all of them passed."""
    return bool(checks) and all(check.passed for check in checks)


def report(
    recipe: Recipe,
    level: Level,
    checks: Iterable[Check[Any, Any]],
    own_engine: OwnEngine | None = None,
) -> Report:
    """The report of checks, in the order of their list; it passes with all of the level alone."""
    order = list(KINDS)
    made = tuple(sorted(checks, key=lambda check: order.index(check.name)))
    names = tuple(check.name for check in made)
    return Report(
        variant=recipe.name,
        level=level,
        passed=passed(made) and names == expected(recipe, level),
        checks=made,
        own_engine=own_engine,
    )


def refutation(report: Report, recipe: Recipe, *, rehearsal: bool) -> str | None:
    """The first reason why a report is not that of a build which passed; None if there is none.

    Nothing that it concludes is believed: checks are those of `expected`, verdicts are drawn anew
    from figures and recipe, and figures of several checks must agree with each other.
    """
    if report.own_engine is not None:
        return f"it {NOT_LOCKED}"
    wanted = expected(recipe, report.level)
    judged = recipe.judging(rehearsal=rehearsal)
    if reason := _other_checks([check.name for check in report.checks], wanted, report.level):
        return reason
    for one in report.checks:
        problem = one.measured.problem(judged) if one.measured else "it measured nothing"
        if problem is not None or not one.passed:
            return f"{one.name} did not pass: {problem or one.problem}"
    if not report.passed:
        return "the assay did not pass"
    return _disagreement(report, rehearsal=rehearsal) if wanted else None


def _other_checks(names: Sequence[str], wanted: Sequence[str], level: Level) -> str | None:
    """What distinguishes the names of the checks that there are from those that there must be."""
    for name in wanted:
        if name not in names:
            return f"{name} is missing, a check of the level {level!r}"
    for name in names:
        if name not in wanted:
            return f"{name} is no check of this variant at the level {level!r}"
        if names.count(name) > 1:
            return f"{name} stands twice"
    return None if list(names) == list(wanted) else "the checks are in another order"


def _disagreement(report: Report, *, rehearsal: bool) -> str | None:
    """Two checks of a report with all checks whose figures exclude each other."""
    index, head = _of(report, stored.Index), _of(report, stored.Head)
    kept, packed = _of(report, stored.Kept), _of(report, stored.Quantized)
    perplexity = report.figures(served.Perplexity)
    parts = head.stored + kept.tensors + packed.tensors
    for what, one, other in (
        ("tensors are stored", index.tensors, _of(report, stored.Names).stored),
        ("tensors are stored", index.tensors, _of(report, stored.Digests).tensors),
        ("tensors are of the head, kept or of quantized linears", index.tensors, parts),
        ("linears are quantized", packed.linears, _of(report, stored.Weights).linears),
        ("linears are quantized", packed.linears, _of(report, stored.Ignore).quantized),
    ):
        if one != other:
            return f"its checks disagree on how many {what}: {one} and {other}"
    if head.bytes + kept.bytes >= index.bytes:
        return f"its checks disagree on bytes: {head.bytes + kept.bytes} of {index.bytes} are kept"
    if perplexity is not None and perplexity.settings.max_windows is not None and not rehearsal:
        return f"perplexity: of {perplexity.windows} windows alone, and this is no rehearsal"
    return None


def _of(report: Report, kind: type[AnyFigures]) -> AnyFigures:
    """The figures of this kind, which are there."""
    return next(one.measured for one in report.checks if isinstance(one.measured, kind))
