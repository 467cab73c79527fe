"""The figures of the checks that have tools called: by the template, and by a server."""

import json
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from forge.core.model import Model
from forge.manifest.measured import Figures
from forge.recipes.recipe import Recipe

TOOL: Final = "get_weather"
CITY: Final = "Paris"
ORDER: Final = "place_order"


class Function(Model):
    """A call of a tool, its arguments read."""

    name: str
    arguments: dict[str, Any]


class Call(Model):
    """A call of a tool as a server returns it."""

    name: str
    arguments: str


class WeatherArguments(Model):
    """The arguments of the tool that the checks offer; its schema is what the model is given."""

    city: str


class Item(Model):
    """A part of an order."""

    name: Annotated[str, Field(max_length=16)]
    count: Annotated[int, Field(ge=1, le=9)]
    options: Annotated[
        tuple[Annotated[str, Field(max_length=12)], ...], Field(min_length=1, max_length=2)
    ]


class OrderArguments(Model):
    """Arguments that nest: an array of objects with arrays. The limits end what a model writes."""

    city: Annotated[str, Field(max_length=16)]
    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=2)]


WEATHER_CALL: Final = Function(name=TOOL, arguments={"city": CITY})
ORDER_CALL: Final = Function(
    name=ORDER,
    arguments={
        "city": CITY,
        "items": [
            {"name": "pizza", "count": 2, "options": ["cheese", "olives"]},
            {"name": "tea", "count": 1, "options": ["milk"]},
        ],
    },
)


class ToolParser(Figures):
    """What the template wrote of two calls, and what the parser read of that."""

    parser: str
    written: str
    read: tuple[Function, ...]

    def problem(self, recipe: Recipe) -> str | None:
        """The recipe's parser read the calls that the template was given, nested arguments too."""
        wanted = recipe.serve.args.get("tool-call-parser")
        if self.parser != wanted:
            return f"the parser is {self.parser!r}, the recipe's is {wanted!r}"
        if self.read != (WEATHER_CALL, ORDER_CALL):
            calls = [one.as_json() for one in self.read]
            return f"{self.parser} read {calls} from the template's own spelling"
        return None


class ToolCall(Figures):
    """The calls that came back where one was demanded."""

    calls: tuple[Call, ...]

    def problem(self, recipe: Recipe) -> str | None:
        """It is one call of the tool, with arguments that satisfy its schema."""
        del recipe
        return _broken(self.calls, TOOL, WeatherArguments)


class ToolNested(Figures):
    """Calls of a tool whose arguments nest: where one was demanded, and where one was fitting."""

    demanded: tuple[Call, ...]
    chosen: tuple[Call, ...]

    def problem(self, recipe: Recipe) -> str | None:
        """Arguments can be read; of a model of full size, they are those of the schema."""
        for calls in (self.demanded, self.chosen):
            if recipe.gates.full_size is not None:
                problem = _broken(calls, ORDER, OrderArguments)
            else:
                problem = next(filter(None, map(_unread, calls)), None)
            if problem is not None:
                return problem
        return None

    @property
    def told(self) -> str:
        """Where it was called with arguments of the schema."""
        demanded, chosen = (
            "as the schema says" if _broken(calls, ORDER, OrderArguments) is None else "otherwise"
            for calls in (self.demanded, self.chosen)
        )
        return f"called {demanded} where demanded, {chosen} where fitting"


def _unread(call: Call) -> str | None:
    """Why a call is none of the tool, whatever its arguments are."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = None
    if call.name == ORDER and isinstance(arguments, dict):
        return None
    return f"no call of {ORDER} that can be read: {call.name!r:.80} {call.arguments!r:.200}"


def _broken(calls: tuple[Call, ...], name: str, schema: type[Model]) -> str | None:
    """Why these are not one call of this tool, with arguments that satisfy its schema."""
    if [call.name for call in calls] != [name]:
        return f"not one call of {name}: {[call.as_json() for call in calls]}"
    arguments = calls[0].arguments
    try:
        schema.model_validate_json(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"the arguments {arguments!r:.200} break the schema: {first['msg']}"
    return None
