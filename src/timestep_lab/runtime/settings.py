"""Settings from the environment, read once. Secrets are excluded from every printed form.

The environment takes precedence over a `.env` file in the working directory; neither is modified. The README documents each variable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from timestep_lab.model.display import redact_url
from timestep_lab.model.errors import SettingsError
from timestep_lab.store.quota import GuestLimits

OPENAI_URL = "https://api.openai.com/v1"
ANTHROPIC_URL = "https://api.anthropic.com"
OLLAMA_LOCAL_HOST = "http://127.0.0.1:11434"
OLLAMA_CLOUD_HOST = "https://ollama.com"
NOMINATIM_URL = "https://nominatim.openstreetmap.org/search"
GEOCODING_URL = "https://geocoding-api.open-meteo.com/v1/search"
FORECAST_URL = "https://api.open-meteo.com/v1/forecast"

Choice = TypeVar("Choice", bound=str)

KEYLESS_MODEL = "demo/assistant"
"""Default model when no provider is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a lab. Create one directly for tests, or with `Settings.load()`.

    Addresses are excluded from `repr` too, because they may contain a password.

    Example:
        settings = Settings.load(env={"WEATHER_MODE": "recorded"})
        other = Lab(":memory:", settings=settings)
        print(len(other.agents))
        await other.aclose()
    """

    openai_api_key: str | None = field(default=None, repr=False)
    openai_base_url: str | None = field(default=None, repr=False)
    """None, or OpenAI's own address: Responses API. Any other address: Chat Completions."""
    openai_responses: bool = False
    """`OPENAI_BASE_URL` is a gateway to OpenAI itself and supports Responses (`OPENAI_USE_RESPONSES=1`)."""
    anthropic_api_key: str | None = field(default=None, repr=False)
    anthropic_base_url: str | None = field(default=None, repr=False)
    hf_token: str | None = field(default=None, repr=False)
    hf_base_url: str | None = field(default=None, repr=False)
    """Address of the inference providers' router; None uses Hugging Face's own."""
    hf_endpoints: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Maps a name to the base URL of a Hugging Face inference endpoint (or any server with Chat Completions)."""
    openai_compatible: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Maps a name to the base URL of a server with Chat Completions (vLLM, LM Studio, OpenRouter)."""
    openai_compatible_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Maps a name to the key of that server, if it needs one."""
    ollama_host: str | None = field(default=None, repr=False)
    """None uses `http://127.0.0.1:11434`."""
    ollama_api_key: str | None = field(default=None, repr=False)
    """Only sent to Ollama's cloud."""
    ollama_cloud_host: str = OLLAMA_CLOUD_HOST
    default_agent_model: str | None = None
    default_embedding_model: str | None = None
    """None uses `local/wordllama`, which works offline."""
    store: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    """Token of a served lab when `store` is its address."""
    secret: str | None = field(default=None, repr=False)
    """Signs the tokens of served labs."""
    hosts: tuple[str, ...] = ()
    """Host names accepted by a served lab in addition to this machine's own; `*` accepts any."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted."""
    guests: GuestLimits = field(default_factory=GuestLimits)
    """Limits for one guest of a served lab."""
    local_models: tuple[str, ...] = ()
    """GGUF files, or folders of them, that a served lab may load by path."""
    is_served: bool = False
    """True when other people choose models: a path is loaded only if `local_models` allows it."""
    weather_mode: Literal["live", "recorded", "auto"] = "auto"
    """`auto`: live, with recorded samples when the network is unavailable."""
    weather_nominatim_url: str = NOMINATIM_URL
    weather_geocoding_url: str = GEOCODING_URL
    """Used when Nominatim has no result."""
    weather_forecast_url: str = FORECAST_URL
    demo_delay_ms: float = 12.0
    """Pause between two chunks of a `demo/` answer, in ms."""
    request_timeout_s: float = 600.0
    """Seconds without data on a model's connection before it times out."""

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None, folder: Path | str | None = None) -> Settings:
        """Reads `env` (default: the process's environment), falling back to the `.env` file in `folder`.

        Without `folder`, the `.env` of the working directory is read unless `env` is given. An empty value counts as unset.
        Raises `SettingsError` for an invalid value.
        """
        place = Path(folder) if folder is not None else Path.cwd() if env is None else None
        values = {**_dotenv(place), **(os.environ if env is None else env)}
        text = {name: value.strip() for name, value in values.items() if value and value.strip()}
        return cls(
            openai_api_key=text.get("OPENAI_API_KEY"),
            openai_base_url=_url("OPENAI_BASE_URL", text),
            openai_responses=_switch("OPENAI_USE_RESPONSES", text),
            anthropic_api_key=text.get("ANTHROPIC_API_KEY"),
            anthropic_base_url=_url("ANTHROPIC_BASE_URL", text),
            hf_token=text.get("HF_TOKEN"),
            hf_endpoints=_named_urls("HF_INFERENCE_ENDPOINTS", text),
            openai_compatible=_named_urls("OPENAI_COMPATIBLE", text),
            openai_compatible_keys=_named("OPENAI_COMPATIBLE_KEYS", text),
            ollama_host=text.get("OLLAMA_HOST"),
            ollama_api_key=text.get("OLLAMA_API_KEY"),
            default_agent_model=text.get("DEFAULT_AGENT_MODEL"),
            default_embedding_model=text.get("DEFAULT_EMBEDDING_MODEL"),
            store=text.get("TIMESTEP_LAB_STORE"),
            token=text.get("TIMESTEP_LAB_TOKEN"),
            secret=text.get("TIMESTEP_LAB_SECRET"),
            hosts=_list(text.get("TIMESTEP_LAB_HOSTS")),
            trusted_proxies=_list(text.get("TIMESTEP_LAB_TRUSTED_PROXIES")),
            local_models=_list(text.get("TIMESTEP_LAB_LOCAL_MODELS")),
            guests=GuestLimits(
                files=_count("TIMESTEP_LAB_GUEST_FILES", text, GuestLimits().files),
                megabytes=_count("TIMESTEP_LAB_GUEST_MEGABYTES", text, GuestLimits().megabytes),
                threads=_count("TIMESTEP_LAB_GUEST_THREADS", text, GuestLimits().threads),
                traces=_count("TIMESTEP_LAB_GUEST_TRACES", text, GuestLimits().traces),
                runs=_count("TIMESTEP_LAB_GUEST_RUNS", text, GuestLimits().runs),
                comparisons=_count("TIMESTEP_LAB_GUEST_COMPARISONS", text, GuestLimits().comparisons),
                agents=_count("TIMESTEP_LAB_GUEST_AGENTS", text, GuestLimits().agents),
                tool_servers=_count("TIMESTEP_LAB_GUEST_TOOL_SERVERS", text, GuestLimits().tool_servers),
                vector_stores=_count("TIMESTEP_LAB_GUEST_VECTOR_STORES", text, GuestLimits().vector_stores),
                query_megabytes=_count("TIMESTEP_LAB_GUEST_QUERY_MEGABYTES", text, GuestLimits().query_megabytes),
            ),
            weather_mode=_one_of("WEATHER_MODE", text, ("auto", "live", "recorded")),
            weather_nominatim_url=_url("WEATHER_NOMINATIM_URL", text) or NOMINATIM_URL,
            weather_geocoding_url=_url("WEATHER_GEOCODING_URL", text) or GEOCODING_URL,
            weather_forecast_url=_url("WEATHER_FORECAST_URL", text) or FORECAST_URL,
            demo_delay_ms=_number("TIMESTEP_LAB_DEMO_DELAY_MS", text, 12.0),
            request_timeout_s=_number("TIMESTEP_LAB_REQUEST_TIMEOUT_S", text, 600.0),
        )

    @property
    def default_model(self) -> str:
        """The configured model; otherwise one of the first provider with a key; otherwise `demo/assistant`."""
        if self.default_agent_model:
            return self.default_agent_model
        if self.openai_api_key and not self.openai_elsewhere:
            return "openai/gpt-4.1"
        if self.anthropic_api_key:
            return "anthropic/claude-sonnet-5"
        if self.hf_token:
            return "hf_inference_providers/openai/gpt-oss-20b"
        return KEYLESS_MODEL

    @property
    def openai_elsewhere(self) -> bool:
        """Whether `OPENAI_BASE_URL` points to a server that is neither OpenAI's nor a gateway to it."""
        if self.openai_base_url is None or self.openai_responses:
            return False
        return urlsplit(self.openai_base_url).hostname != urlsplit(OPENAI_URL).hostname

    @property
    def secrets(self) -> tuple[str, ...]:
        """All secret values, to be removed from messages."""
        known = (
            self.openai_api_key,
            self.anthropic_api_key,
            self.hf_token,
            self.ollama_api_key,
            self.secret,
            self.token,
        )
        return tuple(value for value in (*known, *self.openai_compatible_keys.values()) if value)


def _list(value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


def _dotenv(folder: Path | None) -> dict[str, str | None]:
    if folder is None or not (folder / ".env").is_file():
        return {}
    from dotenv import dotenv_values

    try:
        return dict(dotenv_values(folder / ".env"))
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{folder / '.env'} is not UTF-8 ({error}).", "Save it as UTF-8, or move it away."
        ) from error


def _url(name: str, text: Mapping[str, str]) -> str | None:
    value = text.get(name)
    return None if value is None else _checked_url(name, value)


def _checked_url(name: str, value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # A port that is not a number, for example because a password contains a slash.
        known = False
    if not known:
        raise SettingsError(
            f"{name} is {redact_url(value)!r}, which is not a URL.",
            "It must start with http:// or https://.",
            param=name,
        )
    return value.rstrip("/")


def _named(name: str, text: Mapping[str, str]) -> dict[str, str]:
    if name not in text:
        return {}
    try:
        parsed = json.loads(text[name])
    except ValueError as error:
        raise SettingsError(f"{name} is not JSON ({error}).", _NAMED_STEP.format(name), param=name) from error
    if not isinstance(parsed, dict) or not all(isinstance(value, str) for value in parsed.values()):
        raise SettingsError(f"{name} must be a JSON object of strings.", _NAMED_STEP.format(name), param=name)
    return parsed


def _named_urls(name: str, text: Mapping[str, str]) -> dict[str, str]:
    return {key: _checked_url(f"{name}[{key}]", value) for key, value in _named(name, text).items()}


_NAMED_STEP = 'Write it as {}=\'{{"my-name": "https://…"}}\'.'


def _one_of(name: str, text: Mapping[str, str], values: tuple[Choice, ...]) -> Choice:
    """Returns the first value when nothing is set."""
    given = text.get(name, values[0]).casefold()
    for value in values:
        if value == given:
            return value
    raise SettingsError(f"{name} is {text[name]!r}.", f"Use one of: {', '.join(values)}.", param=name)


def _switch(name: str, text: Mapping[str, str]) -> bool:
    value = text.get(name, "0").lower()
    if value not in ("0", "1", "false", "true"):
        raise SettingsError(f"{name} is {text[name]!r}.", "Use 1 or 0.", param=name)
    return value in ("1", "true")


def _number(name: str, text: Mapping[str, str], default: float) -> float:
    try:
        value = float(text.get(name, default))
    except ValueError as error:
        raise SettingsError(f"{name} is {text[name]!r}, which is not a number.", param=name) from error
    if not 0 <= value < float("inf"):
        raise SettingsError(f"{name} is {text[name]}, which is not a non-negative number.", param=name)
    return value


def _count(name: str, text: Mapping[str, str], default: int) -> int:
    value = text.get(name, str(default))
    if not value.isdecimal():
        raise SettingsError(f"{name} is {value!r}, which is not a whole number.", "Use 0 for no limit.", param=name)
    return int(value)
