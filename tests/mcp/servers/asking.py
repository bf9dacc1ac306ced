"""An MCP server for tests that asks: `python asking.py` speaks stdio. It has a resource, a form of addresses, and a prompt, too."""

from typing import Annotated, Literal

from mcp.server.mcpserver import AcceptedElicitation, Context, Elicit, ElicitationResult, MCPServer, Resolve, Sample
from mcp.types import CreateMessageResult, SamplingMessage, TextContent
from pydantic import BaseModel, Field

server = MCPServer("asking", log_level="ERROR")


class Booking(BaseModel):
    name: str = Field(description="In whose name?")
    seats: int = 2


async def who(_: Context) -> Elicit[Booking]:
    return Elicit("Whose table?", Booking)


@server.tool()
async def book(booking: Annotated[ElicitationResult[Booking], Resolve(who)], day: str = "Friday") -> str:
    """Book a table."""
    if isinstance(booking, AcceptedElicitation):
        return f"{day}: {booking.data.seats} seats for {booking.data.name}"
    return f"{day}: nothing booked ({booking.action})"


@server.tool()
async def greet(context: Context) -> str:
    """Ask in the middle of the work, as tools did before 2026-07-28."""
    asked = await context.elicit("Who is there?", Booking)
    return f"Hello {asked.data.name}" if isinstance(asked, AcceptedElicitation) else f"Nobody ({asked.action})"


class Dinner(BaseModel):
    name: str = Field(title="Your name", min_length=2)
    guests: int = Field(ge=1, le=8, description="With you, at most 8.")
    meal: Literal["fish", "pasta"]
    garden: bool = Field(default=False, title="In the garden")
    note: str | None = None


async def what(_: Context) -> Elicit[Dinner]:
    return Elicit("What shall we prepare?", Dinner)


@server.tool()
async def dine(dinner: Annotated[ElicitationResult[Dinner], Resolve(what)]) -> str:
    """Order a dinner."""
    if isinstance(dinner, AcceptedElicitation):
        return dinner.data.model_dump_json()
    return f"no dinner ({dinner.action})"


async def opinion(_: Context) -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text="Say yes."))], max_tokens=50)


@server.tool()
async def consult(said: Annotated[CreateMessageResult, Resolve(opinion)]) -> str:
    """Ask the client's model."""
    return f"it said {said.content.text}"


@server.resource("note://today")
def today() -> str:
    """What is on today."""
    return "Tea at five."


@server.resource("note://{day}")
def on(day: str) -> str:
    """What is on another day."""
    return f"Nothing on {day}."


@server.prompt()
def review(topic: str) -> str:
    """Ask for a review."""
    return f"Review {topic}."


if __name__ == "__main__":
    server.run("stdio")
