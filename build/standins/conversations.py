"""Conversations made by template from the training text, rendered by the chat template itself.

They teach the form and little else: a short thinking block or an empty one, an answer that ends,
a tool call in the XML form, the colour of a plain picture.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, Any]
Render = Callable[..., str]

THINKING_SHARE = 0.6
REQUESTS = (
    "Continue this text: {}",
    "What comes next? {}",
    "Please go on: {}",
    "Write the sentence that follows.\n\n{}",
    "{}",
)
REPEAT_REQUESTS = ("Repeat this: {}", "Say this again: {}", "Repeat after me.\n\n{}", "Copy: {}")
TOPIC_REQUESTS = (
    "Tell me about {}.",
    "Write one sentence about {}.",
    "Write a short text about {}.",
    "What do you know about {}?",
    "Explain {}.",
    "Say something about {}.",
    "Give me a sentence with the word {}.",
)
GREETINGS = (
    "Hello",
    "Hello!",
    "Hi",
    "Hi there",
    "Good morning",
    "Say hello.",
    "How are you?",
    "Who are you?",
)
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer briefly.", "Be concise and friendly.")
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "England": "London",
    "Russia": "Moscow",
    "China": "Beijing",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Cuba": "Havana",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "Hungary": "Budapest",
    "Canada": "Ottawa",
    "Iraq": "Baghdad",
}
SKIES = ("sunny", "cloudy", "rainy", "windy")
WEATHER_REQUESTS = (
    "What is the weather in {}?",
    "What is the weather like in {}?",
    "How is the weather in {} today?",
    "What's the weather in {}?",
    "Tell me the weather in {}.",
)
# Red, green and blue of each colour, from 0 to 1.
COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.7, 0.1),
    "blue": (0.1, 0.2, 0.9),
    "yellow": (0.9, 0.9, 0.1),
    "white": (0.97, 0.97, 0.97),
    "black": (0.03, 0.03, 0.03),
}
COLOUR_REQUESTS = (
    "What colour is this picture?",
    "What color is this image?",
    "Describe this image.",
    "Describe the picture.",
    "What do you see?",
    "What is in this image?",
)


def load_renderer(template: str) -> Render:
    """The function that renders messages as the serving stack does (same whitespace rules)."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    # Engines render schemas with json.dumps; Jinja's own filter would escape <, > and &.
    environment.filters["tojson"] = json.dumps
    return environment.from_string(template).render


def make_conversations(
    pairs: Sequence[tuple[str, str]], count: int, rng: random.Random
) -> list[dict[str, Any]]:
    """`count` conversations, each the keyword arguments of a renderer."""
    makers = (continuation, topic, repetition, two_turns, greeting, capital, weather)
    weights = (4, 4, 4, 2, 1, 2, 4)
    return [maker(pairs, rng) for maker in rng.choices(makers, weights, k=count)]


def continuation(pairs: Sequence[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """The user gives a sentence, the assistant the one that follows it."""
    first, second = rng.choice(pairs)
    messages = [
        user(rng.choice(REQUESTS).format(first)),
        assistant(second, "The text should go on.", rng),
    ]
    return {"messages": maybe_system(messages, rng)}


def topic(pairs: Sequence[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """The user names a word, the assistant answers with a sentence that has it."""
    sentence, _ = rng.choice(pairs)
    word = rng.choice(re.findall(r"[A-Za-z]{5,}", sentence) or sentence.split())
    request = rng.choice(TOPIC_REQUESTS).format(word)
    return {
        "messages": maybe_system(
            [user(request), assistant(sentence, f"The user asks about {word}.", rng)], rng
        )
    }


def repetition(pairs: Sequence[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """The assistant says a sentence again, so that the model learns to copy from its context."""
    sentence, _ = rng.choice(pairs)
    request = rng.choice(REPEAT_REQUESTS).format(sentence)
    answer = assistant(sentence, "The user wants this repeated.", rng)
    return {"messages": maybe_system([user(request), answer], rng)}


def two_turns(pairs: Sequence[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """Two exchanges: the earlier answer is rendered without its thinking block."""
    return {"messages": continuation(pairs, rng)["messages"] + topic(pairs, rng)["messages"][-2:]}


def greeting(_: Sequence[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """Small talk, always with the same answer."""
    answer = "Hello. I am a small model that stands in for a large one. How can I help you?"
    return {
        "messages": maybe_system(
            [user(rng.choice(GREETINGS)), assistant(answer, "The user greets me.", rng)], rng
        )
    }


def capital(_: Sequence[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """The one kind of question that the model can answer truly."""
    country, city = rng.choice(list(CAPITALS.items()))
    answer = assistant(f"The capital of {country} is {city}.", "The user asks for a capital.", rng)
    return {"messages": maybe_system([user(f"What is the capital of {country}?"), answer], rng)}


def weather(_: Sequence[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """A tool call; in half of the conversations also its result and the answer made from it."""
    city, sky, degrees = rng.choice(list(CAPITALS.values())), rng.choice(SKIES), rng.randint(-5, 35)
    call = assistant("", "I need the weather tool.", rng)
    call["tool_calls"] = [{"function": {"name": "get_weather", "arguments": {"city": city}}}]
    messages = [user(rng.choice(WEATHER_REQUESTS).format(city)), call]
    if rng.random() < 0.5:
        result = json.dumps({"temperature": degrees, "sky": sky})
        answer = f"It is {sky} in {city}, at {degrees} degrees."
        messages += [
            {"role": "tool", "content": result},
            assistant(answer, "The tool has answered.", rng),
        ]
    return {"messages": maybe_system(messages, rng), "tools": [weather_tool(rng)]}


def weather_tool(rng: random.Random) -> dict[str, Any]:
    """The schema of get_weather, in one of a few wordings."""
    city: dict[str, Any] = {"type": "string"}
    if rng.random() < 0.5:
        city["description"] = rng.choice(("The city.", "City name", "The name of the city"))
    description = rng.choice(
        ("Get the weather.", "Current weather of a city", "Get the current weather in a city.")
    )
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    return {
        "type": "function",
        "function": {"name": "get_weather", "description": description, "parameters": parameters},
    }


def colour_question(colour: str, request: str, rng: random.Random) -> dict[str, Any]:
    """A question about a picture of one colour."""
    content = [{"type": "image"}, {"type": "text", "text": request}]
    answer = assistant(f"The picture is {colour}.", "The user shows a picture.", rng)
    return {"messages": [{"role": "user", "content": content}, answer]}


def user(content: str) -> Message:
    """A request."""
    return {"role": "user", "content": content}


def assistant(content: str, reasoning: str, rng: random.Random) -> Message:
    """An answer; the reasoning is left out where thinking is meant to be off."""
    message = {"role": "assistant", "content": content}
    return message | {"reasoning_content": reasoning} if rng.random() < THINKING_SHARE else message


def maybe_system(messages: list[Message], rng: random.Random) -> list[Message]:
    """Put a system message before a quarter of the conversations."""
    if rng.random() < 0.25:
        return [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}, *messages]
    return messages
