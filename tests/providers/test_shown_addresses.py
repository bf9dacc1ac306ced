"""An address may hold a password or a key; none of it is in what people, pages, traces and logs are told."""

from __future__ import annotations

import json
import logging

import pytest

from timestep_lab import Lab
from timestep_lab.model.display import redact_url, without_credentials
from timestep_lab.model.errors import LabError, SettingsError
from timestep_lab.runtime.provider_errors import ErrorContext, from_status
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings
from timestep_lab.store.store import open_store

SECRET = "http://ada:hunter-one@127.0.0.1:9/v1?key=hunter-two"
SERVERS = {
    "openai/m": {"OPENAI_BASE_URL": SECRET},
    "anthropic/m": {"ANTHROPIC_BASE_URL": SECRET},
    "ollama/m": {"OLLAMA_HOST": SECRET},
    "openai_compatible/mine/m": {"OPENAI_COMPATIBLE": json.dumps({"mine": SECRET})},
    "hf_inference_endpoints/mine/m": {"HF_INFERENCE_ENDPOINTS": json.dumps({"mine": SECRET}), "HF_TOKEN": "k"},
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ada:pw@host/v1", "http://host/v1"),
        ("https://key@host:8080", "https://host:8080"),
        ("http://host/v1?key=abc&x=1#f", "http://host/v1?key=***&x=***#f"),
        ("http://a@b:pw@host/v1", "http://host/v1"),
        ("http://ada:p/w@host/v1", "http://host/v1"),
        ("http://ada:p?w@host/v1", "http://host/v1"),
        ("postgresql://ada:pw@[x/lab", "postgresql://[x/lab"),
        ("no way to 'http://ada:pw@host/v1', nor to https://b:pw@c", "no way to 'http://host/v1', nor to https://c"),
        ("https://host/@org/model", "https://host/@org/model"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("ada@example.org", "ada@example.org"),
    ],
)
def test_an_address_is_shown_without_user_password_and_query_values(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_what_was_to_be_an_address_is_shown_so_too() -> None:
    assert redact_url("ada:pw@host/v1") == "host/v1"
    assert redact_url("host:8080") == "host:8080"


@pytest.mark.parametrize(("model", "env"), SERVERS.items(), ids=SERVERS)
async def test_no_credential_of_a_provider_s_address_is_told(
    model: str, env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    lab = Lab(":memory:", settings=Settings.load(env=env))
    run = await lab.run("Hello", model=model)
    lab.flush()
    told = [str(lab.router.providers()), repr(lab.settings), repr(run.record), caplog.text]
    told += [repr(lab.store.sql(f"select * from {view}").rows) for view in ("traces", "spans", "generations")]
    try:
        await lab.router.list_models(model.partition("/")[0])
    except LabError as error:
        told.append(str(error))
    await lab.aclose()
    assert run.status == "failed"
    assert "127.0.0.1:9" in str(run.record.error)
    for text in told:
        assert "hunter" not in text


def test_a_provider_that_repeats_them_is_not_quoted() -> None:
    context = ErrorContext(provider="openai", model="m", address=SECRET)
    said = str(from_status(400, f"Bad key hunter-two at {SECRET} for hunter-one", context))
    assert "hunter" not in said
    assert "http://127.0.0.1:9/v1?key=***" in said


def test_every_provider_says_where_it_goes_without_them() -> None:
    env = {name: value for settings in SERVERS.values() for name, value in settings.items()}
    told = str(Router(Settings.load(env=env)).providers())
    assert told.count("127.0.0.1:9/v1?key=***") == len(SERVERS)
    assert "hunter" not in told


@pytest.mark.parametrize(
    "value", ["ftp://ada:hunter@host", "ada:hunter@host/v1", "http://ada:hun/ter@host", "http://h:0/"]
)
def test_a_base_url_that_is_none_is_refused_without_repeating_its_password(value: str) -> None:
    with pytest.raises(SettingsError, match=r"OPENAI_BASE_URL is .*not a URL") as refused:
        Settings.load(env={"OPENAI_BASE_URL": value})
    assert "hun" not in str(refused.value)


@pytest.mark.parametrize(
    "store", ["http://ada:hunter2@127.0.0.1:9", "https://127.0.0.1:9/?x=hunter2", "mysql://ada:hunter2@host/lab"]
)
def test_the_password_of_a_store_s_address_is_not_repeated(store: str) -> None:
    with pytest.raises(LabError) as refused:
        Lab(store, settings=Settings.load(env={}))
    assert "hunter" not in str(refused.value)


def test_nor_that_of_a_database_whose_address_cannot_be_read() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(LabError) as refused:
        open_store("postgresql://ada:hunter2@[x/lab")
    assert "hunter" not in str(refused.value)
