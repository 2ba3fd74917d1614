"""What requests hold and what is answered: the models of the routes, with the examples that OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

_STRICT = ConfigDict(extra="forbid", strict=True)
Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Row(BaseModel):
    """A text, or a pair of texts, with what some tasks read beside them."""

    model_config = _STRICT
    text: Text
    text_b: str | None = Field(None, description="the second text of a pair; for span the passage")
    words: list[list[int]] | None = Field(None, description="for tag: the words of the text, as [start, end]")
    side: Literal["query", "passage", "item"] | None = Field(None, description="for rank and recommend: what the text is")
    history: list[str] | None = Field(None, description="for recommend: what came before", max_length=1000)

    @model_validator(mode="after")
    def _words_lie_in_the_text(self) -> Row:
        end = 0
        for word in self.words or ():
            if len(word) != 2 or not end <= word[0] < word[1] <= len(self.text):
                raise ValueError("words: give [start, end] of each, in order, within the text")
            end = word[1]
        return self


class Predict(BaseModel):
    """One or many inputs for one, some or all branches."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"inputs": ["My card has not arrived yet", "我要退款"], "branches": ["intent", "sentiment"]},
                {"inputs": [{"text": "Who paid?", "text_b": "The bank paid the bill."}], "branches": ["answers"], "threshold": 0.5},
            ]
        },
    )
    inputs: list[Text | Row] | Text = Field(description="texts, or rows with text and text_b; one alone needs no list")
    branches: list[Name] | None = Field(None, description="names of branches; none: all that are served", min_length=1, max_length=256)
    top: int = Field(5, ge=1, le=1000, description="labels that are shown with their probabilities, at most")
    threshold: float | None = Field(None, ge=0, le=1, description="below this probability an answer is marked as abstained")
    truncate: bool = Field(False, description="cut texts that are too long, and say so, instead of refusing them")
    user: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        None, description="who asks: the same canary or live version for the same user"
    )


class Folder(BaseModel):
    """A branch in a folder below --root."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"folder": "intent-2"}]})
    folder: Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Canary(Folder):
    """A branch that answers a share of the requests."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"folder": "intent-2", "share": 0.05}]})
    share: float = Field(gt=0, lt=1)


class Feedback(BaseModel):
    """What is said of an answer: a label that would be right, a rating, a comment."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"branch": "intent", "version": "0f3c61d2a9be", "row": {"text": "Where is my card"}, "label": "card_arrival"}]
        },
    )
    branch: Name
    version: Annotated[str, StringConstraints(max_length=64)] | None = None
    row: Row
    answer: dict[str, Any] | None = Field(None, description="what was served")
    label: Any = Field(None, description="what would be right, as the task writes it")
    rating: int | None = Field(None, ge=-1, le=1)
    comment: Annotated[str, StringConstraints(max_length=4000)] | None = None
    subject: Annotated[str, StringConstraints(max_length=256)] | None = Field(None, description="whom it is about, for forgetting")
    request: Annotated[str, StringConstraints(max_length=64)] | None = Field(None, description="the id of the request that was answered")


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI of a route that reads its body itself."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
