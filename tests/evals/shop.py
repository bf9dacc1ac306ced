"""A shop made by a seeded script: 500 customers, 1,000 orders, 16 tools of which half change something, 114 tasks with the actions that
solve them. A run is scored by what it did: its changes, made on a fresh shop, must leave what the solution leaves, and no other.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import Agent, FunctionTool, function_tool
from agents.tracing import get_current_trace

from timestep_lab.runtime.span_records import read_only

N_CUSTOMERS, N_ORDERS, N_PRODUCTS, N_TASKS = 500, 1000, 80, 114
SYLLABLES = ["ba", "do", "fi", "ga", "ho", "ku", "le", "mo", "na", "pe", "ri", "sa", "to", "ve", "wi", "zu"]
KINDS = "lamp", "chair", "kettle", "rug", "clock", "desk", "vase", "shelf"
COLOURS = "red", "blue", "green", "grey", "white"
METHODS = "card", "invoice", "gift card"
REASONS = "no longer needed", "ordered by mistake", "arrived too late", "broken"
Action = tuple[str, dict[str, Any]]


@dataclass
class Shop:
    """What there is, and what was changed. A copy shares every record that it has not changed."""

    customers: dict[str, dict[str, Any]]
    orders: dict[str, dict[str, Any]]
    products: dict[str, dict[str, Any]]
    changes: list[str] = field(default_factory=list)

    def fresh(self) -> Shop:
        return Shop({**self.customers}, {**self.orders}, self.products)

    # -- tools that only read

    def find_customer(self, email: str) -> Any:
        return next((c for c in self.customers.values() if c["email"] == email), "no such customer")

    def get_customer(self, customer_id: str) -> Any:
        return self.customers.get(customer_id, "no such customer")

    def list_orders(self, customer_id: str) -> Any:
        return [order["id"] for order in self.orders.values() if order["customer_id"] == customer_id]

    def get_order(self, order_id: str) -> Any:
        return self.orders.get(order_id, "no such order")

    def get_product(self, sku: str) -> Any:
        return self.products.get(sku, "no such product")

    def search_products(self, kind: str) -> Any:
        return [sku for sku, product in self.products.items() if product["kind"] == kind]

    def get_shipment(self, order_id: str) -> Any:
        order = self.orders.get(order_id)
        return {"status": order["status"], "address": order["address"]} if order else "no such order"

    def get_payment(self, order_id: str) -> Any:
        order = self.orders.get(order_id)
        return {"method": order["method"], "total": order["total"]} if order else "no such order"

    # -- tools that change something

    def cancel_order(self, order_id: str, reason: str) -> str:
        return self._order(order_id, "pending", status="cancelled", reason=reason)

    def return_order(self, order_id: str, reason: str) -> str:
        return self._order(order_id, "delivered", status="returning", reason=reason)

    def change_address(self, order_id: str, address: str) -> str:
        return self._order(order_id, "pending", address=address)

    def change_payment(self, order_id: str, method: str) -> str:
        return self._order(order_id, "pending", method=method)

    def change_item(self, order_id: str, sku: str, new_sku: str) -> str:
        order = self.orders.get(order_id)
        if order is None or sku not in order["skus"] or new_sku not in self.products:
            return "not possible"
        return self._order(order_id, "pending", skus=[new_sku if one == sku else one for one in order["skus"]])

    def refund(self, order_id: str, amount: int) -> str:
        order = self.orders.get(order_id)
        if order is None or not 0 < amount <= order["total"]:
            return "not possible"
        return self._order(order_id, "delivered", refunded=order.get("refunded", 0) + amount)

    def update_email(self, customer_id: str, email: str) -> str:
        if customer_id not in self.customers:
            return "no such customer"
        self.customers[customer_id] = {**self.customers[customer_id], "email": email}
        return "done"

    def set_note(self, order_id: str, note: str) -> str:
        return self._order(order_id, None, note=note)

    def _order(self, order_id: str, only: str | None, **changed: Any) -> str:
        order = self.orders.get(order_id)
        if order is None or (only and order["status"] != only):
            return "not possible"
        self.orders[order_id] = {**order, **changed}
        return "done"

    # --

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """What a tool says. Calls that change something are remembered, also those that were not possible."""
        if tool in WRITES:
            self.changes.append(json.dumps([tool, arguments], sort_keys=True))
        return getattr(self, tool)(**arguments)

    def differs_from(self, other: Shop) -> bool:
        return (self.customers, self.orders, sorted(self.changes)) != (
            other.customers,
            other.orders,
            sorted(other.changes),
        )


READS = (
    "find_customer",
    "get_customer",
    "list_orders",
    "get_order",
    "get_product",
    "search_products",
    "get_shipment",
    "get_payment",
)
WRITES = (
    "cancel_order",
    "return_order",
    "change_address",
    "change_payment",
    "change_item",
    "refund",
    "update_email",
    "set_note",
)


@dataclass(frozen=True)
class Task:
    asked: str
    email: str
    actions: tuple[Action, ...]


def make(seed: int = 7) -> tuple[Shop, list[Task]]:
    """The shop and its tasks; the same for the same seed."""
    dice = random.Random(seed)

    def word() -> str:
        return "".join(dice.choice(SYLLABLES) for _ in range(3))

    def address() -> str:
        return f"{dice.randint(1, 99)} {word().title()} Street"

    products = {
        f"P-{100 + n}": {"sku": f"P-{100 + n}", "kind": dice.choice(KINDS), "colour": dice.choice(COLOURS), "price": dice.randint(5, 200)}
        for n in range(N_PRODUCTS)
    }  # fmt: skip
    customers = {
        f"C-{1000 + n}": {"id": f"C-{1000 + n}", "name": f"{word().title()} {word().title()}", "email": f"{word()}{n}@shop.example", "address": address()}
        for n in range(N_CUSTOMERS)
    }  # fmt: skip
    orders = {}
    for n in range(N_ORDERS):
        skus = dice.sample(sorted(products), dice.randint(1, 3))
        customer = dice.choice(sorted(customers))
        orders[f"O-{5000 + n}"] = {
            "id": f"O-{5000 + n}", "customer_id": customer, "skus": skus, "total": sum(products[sku]["price"] for sku in skus),
            "status": dice.choice(("pending", "delivered", "shipped")), "address": customers[customer]["address"], "method": dice.choice(METHODS),
        }  # fmt: skip
    shop = Shop(customers, orders, products)
    tasks = []
    for n in range(N_TASKS):
        kind = WRITES[n % len(WRITES)]
        tasks.append(_task(dice, shop, kind, more=n % 3 == 0))
    return shop, tasks


def _task(dice: random.Random, shop: Shop, kind: str, *, more: bool) -> Task:
    wanted = {"return_order": "delivered", "refund": "delivered", "set_note": None, "update_email": None}.get(
        kind, "pending"
    )
    order = dice.choice([o for o in shop.orders.values() if wanted in (None, o["status"])])
    customer, id = shop.customers[order["customer_id"]], order["id"]
    reason, street = dice.choice(REASONS), f"{dice.randint(100, 999)} New Road"
    other = dice.choice([sku for sku in sorted(shop.products) if sku not in order["skus"]])
    method = dice.choice([one for one in METHODS if one != order["method"]])
    amount, note, email = (
        dice.randint(1, order["total"]),
        f"ring {dice.randint(2, 9)} times",
        f"new.{customer['email']}",
    )
    action, said = {
        "cancel_order": (("cancel_order", {"order_id": id, "reason": reason}), f"Cancel my order {id}: {reason}."),
        "return_order": (("return_order", {"order_id": id, "reason": reason}), f"I want to send back order {id}: {reason}."),
        "change_address": (("change_address", {"order_id": id, "address": street}), f"Send order {id} to {street}."),
        "change_payment": (("change_payment", {"order_id": id, "method": method}), f"I pay order {id} by {method}."),
        "change_item": (
            ("change_item", {"order_id": id, "sku": order["skus"][0], "new_sku": other}), f"In order {id}, {other} in place of {order['skus'][0]}.",
        ),
        "refund": (("refund", {"order_id": id, "amount": amount}), f"Refund {amount} of order {id}."),
        "update_email": (("update_email", {"customer_id": customer["id"], "email": email}), f"My address is now {email}."),
        "set_note": (("set_note", {"order_id": id, "note": note}), f"For order {id}: {note}."),
    }[kind]  # fmt: skip
    actions = [action]
    if more and kind != "set_note":
        actions.append(("set_note", {"order_id": id, "note": note}))
        said += f" And note: {note}."
    return Task(f"I am {customer['email']}. {said}", customer["email"], tuple(actions))


def solved(shop: Shop, task: Task) -> Shop:
    done = shop.fresh()
    for tool, arguments in task.actions:
        assert done.call(tool, arguments) == "done", (tool, arguments)
    return done


def score(shop: Shop, task: Task, actions: Sequence[Action]) -> float:
    """1 where these leave the shop as the solution does."""
    made = shop.fresh()
    for tool, arguments in actions:
        if tool in WRITES:
            try:
                made.call(tool, arguments)
            except TypeError:  # Arguments that the tool does not have.
                made.changes.append("nonsense")
    return 0.0 if made.differs_from(solved(shop, task)) else 1.0


def mutations(shop: Shop, task: Task) -> list[list[Action]]:
    """The solution with one action left out, doubled, or other than it was in one argument, or with one more."""
    found: list[list[Action]] = []
    for place, (tool, arguments) in enumerate(task.actions):
        before, after = list(task.actions[:place]), list(task.actions[place + 1 :])
        found += [[*before, *after], [*before, (tool, arguments), (tool, arguments), *after]]
        for name, value in arguments.items():
            other = value + 1 if isinstance(value, int) else f"{value}x"
            found.append([*before, (tool, {**arguments, name: other}), *after])
        for wrong in ("O-5000", "O-5001"):
            if "order_id" in arguments and arguments["order_id"] != wrong:
                found.append([*before, (tool, {**arguments, "order_id": wrong}), *after])
    found.append([*task.actions, ("set_note", {"order_id": "O-5002", "note": "one more"})])
    return found


# -- agents


@dataclass
class Live:
    """The tools, each run on a shop of its own; and how often each was really called."""

    shop: Shop
    calls: Counter[str] = field(default_factory=Counter)
    _of_trace: dict[str, Shop] = field(default_factory=dict)

    def tools(self) -> list[FunctionTool]:
        return [self._tool(name) for name in (*READS, *WRITES)]

    def _tool(self, name: str) -> FunctionTool:
        known = _signature(getattr(Shop, name))

        def act(*given: Any) -> str:
            self.calls[name] += 1
            arguments = dict(zip(known.parameters, given, strict=True))
            trace = get_current_trace()
            mine = self._of_trace.setdefault(trace.trace_id if trace else "", self.shop.fresh())
            return json.dumps(mine.call(name, arguments))

        act.__name__, act.__doc__ = name, f"{name.replace('_', ' ').capitalize()}."
        method = getattr(Shop, name)
        act.__signature__ = known  # type: ignore[attr-defined]
        act.__annotations__ = {k: v for k, v in method.__annotations__.items() if k != "return"} | {"return": "str"}
        made = function_tool(act, strict_mode=True)
        return read_only(made) if name in READS else made


def _signature(method: Callable[..., Any]) -> Any:
    import inspect

    known = inspect.signature(method)
    types = {"str": str, "int": int}
    return known.replace(
        parameters=[
            p.replace(kind=p.POSITIONAL_OR_KEYWORD, annotation=types[str(p.annotation)]) for p in list(known.parameters.values())[1:]
        ],
        return_annotation=str,
    )  # fmt: skip


def decide_of(
    tasks: Sequence[Task], errs: float = 0.0, seed: int = 0
) -> Callable[[str, list[Any], list[Any]], list[Any]]:
    """A scripted agent's decisions: it looks the customer and the order up, acts, and says so. In the share `errs` of the tasks, always the
    same ones for a seed, it acts wrongly."""
    from tests.runtime.bench import calls, says

    by_text = {task.asked: (n, task) for n, task in enumerate(tasks)}

    def decide(_: str, items: list[Any], __: list[Any]) -> list[Any]:
        asked = next(item["content"] for item in items if item.get("role") == "user")
        n, task = by_text[asked]
        dice = random.Random(f"{seed} {n}")
        wrong = dice.random() < errs
        plan: list[Action] = [("find_customer", {"email": task.email})]
        order = next((a["order_id"] for _, a in task.actions if "order_id" in a), None)
        if order:
            plan.append(("get_order", {"order_id": order}))
        actions = list(task.actions)
        if wrong:
            actions = mutations_of(actions, dice)
        plan += actions
        done = sum(item.get("type") == "function_call_output" for item in items)
        return calls(plan[done]) if done < len(plan) else says("It is done.")

    return decide


def mutations_of(actions: list[Action], dice: random.Random) -> list[Action]:
    """One action forgotten, or made with another text or number."""
    place = dice.randrange(len(actions))
    tool, arguments = actions[place]
    if dice.random() < 0.3:
        return actions[:place] + actions[place + 1 :]
    name = next((name for name in reversed(arguments)), "")
    value = arguments[name]
    other = value + 1 if isinstance(value, int) else f"{value} or so"
    return [*actions[:place], (tool, {**arguments, name: other}), *actions[place + 1 :]]


def agent(live: Live, model: Any, name: str = "Shop desk") -> Agent[Any]:
    return Agent(name=name, instructions="Help customers of the shop.", tools=[*live.tools()], model=model)


# -- comparisons


@dataclass
class Bench:
    """A lab, the shop's tasks as cases, and what is compared on them."""

    lab: Any
    n_tasks: int = N_TASKS
    live: Live = field(init=False)

    def __post_init__(self) -> None:
        self.shop, tasks = make()
        self.tasks = tasks[: self.n_tasks]
        self.live = Live(self.shop)
        self.cases = [{"input": task.asked} for task in self.tasks]

    def candidate(self, errs: float = 0.0, seed: int = 0, name: str = "Shop desk") -> Agent[Any]:
        from tests.runtime.bench import Policy

        return agent(self.live, Policy(decide_of(self.tasks, errs, seed)), name)

    def solves(self, input: str, steps: Sequence[Mapping[str, Any]]) -> float:
        task = next(task for task in self.tasks if task.asked == input)
        made = [(step["name"], step["arguments"]) for step in steps if step.get("type") == "tool"]
        return score(self.shop, task, made)

    async def compare(self, *agents: Agent[Any], **options: Any) -> Any:
        return await self.lab.compare(self.cases, agents=list(agents), scorers=[self.solves], cache="off", **options)

    def tape_of(self, grid: Any) -> Any:
        return self.lab.tape([cell.trace_id for cell in grid.cells])

    @property
    def changed(self) -> int:
        """Calls for real of tools that change something."""
        return sum(self.live.calls[tool] for tool in WRITES)


def written(grid: Any) -> bytes:
    """All that was said, done and scored, as bytes."""
    told = [
        [cell.case_id, cell.candidate, cell.output, [[s.scorer, s.value] for s in cell.scores],
         [[step.get("name"), step.get("arguments"), step.get("tape")] for step in cell.steps]]
        for cell in grid.cells
    ]  # fmt: skip
    return json.dumps(told, sort_keys=True).encode()
