"""Spans that are read in a process beside the server's."""

from __future__ import annotations

import gzip
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psutil
import pytest

from tests.benchmarks.bench_trace_writing import otlp, rows
from tests.server.lab_process import LabProcess
from timestep_lab.model.errors import DataError, StoreUnavailableError, TooLargeError
from timestep_lab.runtime.interchange import read_otlp
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF
from timestep_lab.server.otlp_decoder import WORTH_SENDING, OtlpDecoder, known_summary
from timestep_lab.store.worker import WorkerDied


@pytest.fixture(scope="module")
def body() -> bytes:
    large = otlp(rows("user_a", 1)[:200])
    assert len(large) > WORTH_SENDING
    return large


@pytest.fixture
def decoder() -> Iterator[OtlpDecoder]:
    decoder = OtlpDecoder(processors=2)
    yield decoder
    decoder.close()


def test_a_large_request_is_read_in_another_process_to_the_same_rows(decoder: OtlpDecoder, body: bytes) -> None:
    assert decoder.read(body, PROTOBUF, None, "user_a") == read_otlp(body, PROTOBUF, None, "user_a")
    assert decoder.pid not in (None, os.getpid())


@pytest.mark.parametrize("many", [1, 2])
def test_a_small_request_or_a_single_processor_needs_no_other_process(body: bytes, many: int) -> None:
    decoder = OtlpDecoder(processors=many)
    request = body if many == 1 else otlp(rows("user_a", 1)[:5])
    assert decoder.read(request, PROTOBUF, None, "user_a") == read_otlp(request, PROTOBUF, None, "user_a")
    assert decoder.pid is None


def test_what_cannot_be_read_is_refused_in_the_same_words_and_the_next_request_is_read(
    decoder: OtlpDecoder, body: bytes
) -> None:
    broken = b"\xff" * len(body)
    with pytest.raises(DataError) as here:
        read_otlp(broken, PROTOBUF, None, "user_a")
    with pytest.raises(DataError) as there:
        decoder.read(broken, PROTOBUF, None, "user_a")
    assert (there.value.message, there.value.next_step) == (here.value.message, here.value.next_step)
    assert len(decoder.read(body, PROTOBUF, None, "user_a").spans) == 200


def test_no_request_is_lost_when_the_other_process_is_killed(decoder: OtlpDecoder, body: bytes) -> None:
    decoder.read(body, PROTOBUF, None, "user_a")
    killed = decoder.pid
    assert killed is not None
    os.kill(killed, signal.SIGTERM)
    assert len(decoder.read(body, PROTOBUF, None, "user_a").spans) == 200
    assert len(decoder.read(body, PROTOBUF, None, "user_a").spans) == 200
    assert decoder.pid not in (None, killed)


def test_a_closed_decoder_has_ended_its_process_and_still_reads(body: bytes) -> None:
    decoder = OtlpDecoder(processors=2)
    decoder.read(body, PROTOBUF, None, "user_a")
    pid = decoder.pid
    assert pid is not None
    decoder.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(decoder.read(body, PROTOBUF, None, "user_a").spans) == 200
    assert decoder.pid is None


def test_the_summary_of_a_request_comes_before_its_rows_and_is_that_of_them(decoder: OtlpDecoder, body: bytes) -> None:
    with closing(decoder.begin(body, PROTOBUF, None, "user_a")) as reading:
        assert reading.is_begun
        for _ in range(2):
            assert reading.summary() == read_otlp(body, PROTOBUF, None, "user_a").summary()
        assert reading.decoded() == read_otlp(body, PROTOBUF, None, "user_a")


def test_of_two_requests_at_once_the_second_begins_when_its_summary_is_asked_for(
    decoder: OtlpDecoder, body: bytes
) -> None:
    with (
        closing(decoder.begin(body, PROTOBUF, None, "a")) as first,
        closing(decoder.begin(body, PROTOBUF, None, "b")) as second,
    ):
        assert (first.is_begun, second.is_begun) == (True, False)
        assert first.summary().n_spans == second.summary().n_spans == 200
        found = [reading.decoded() for reading in (first, second)]
        assert [one and one.user_id for one in found] == ["a", "b"]


def test_a_request_that_nobody_waits_for_any_longer_leaves_the_decoder_free(decoder: OtlpDecoder, body: bytes) -> None:
    decoder.begin(body, PROTOBUF, None, "user_a").close()
    assert len(decoder.read(body, PROTOBUF, None, "user_a").spans) == 200


def test_rows_that_the_killed_process_did_not_send_are_told_to_be_missing(decoder: OtlpDecoder, body: bytes) -> None:
    large = body * 60  # Its rows do not fit into the pipe.
    with closing(decoder.begin(large, PROTOBUF, None, "user_a")) as reading:
        assert decoder.pid is not None
        os.kill(decoder.pid, signal.SIGSTOP)
        os.kill(decoder.pid, signal.SIGKILL)
        assert reading.summary().n_spans == 12_000  # Begun again in another process.
        decoded = reading.decoded()
        assert decoded is not None
        assert len(decoded.spans) == 12_000


def test_a_refused_request_is_refused_whenever_it_is_asked_for(decoder: OtlpDecoder, body: bytes) -> None:
    with closing(decoder.begin(b"\xff" * len(body), PROTOBUF, None, "user_a")) as reading:
        for _ in range(2):
            with pytest.raises(DataError):
                reading.summary()
    assert len(decoder.read(body, PROTOBUF, None, "user_a").spans) == 200


def test_what_an_exporter_sends_is_accepted_before_it_is_decoded_and_its_rows_come_in_order(
    decoder: OtlpDecoder, body: bytes
) -> None:
    other = otlp(rows("user_a", 2)[:200])
    readings = [decoder.accept(some, PROTOBUF, None, "user_a") for some in (body, other, body)]
    for reading, some in zip(readings, (body, other, body), strict=True):
        expected = read_otlp(some, PROTOBUF, None, "user_a")
        assert reading.is_checked
        assert reading.summary() == expected.summary()
        assert reading.decoded() == expected


def test_rows_are_decoded_again_by_whoever_stores_them_when_the_decoder_is_closed_before(body: bytes) -> None:
    decoder = OtlpDecoder(processors=2)
    readings = [decoder.accept(body, PROTOBUF, None, "user_a") for _ in range(5)]
    decoder.close()
    for reading in readings:
        assert reading.summary().n_spans == 200
        assert reading.decoded() in (None, read_otlp(body, PROTOBUF, None, "user_a"))
    assert not decoder.accept(body, PROTOBUF, None, "user_a").is_checked


def with_zero_id(body: bytes) -> bytes:
    at = body.index(b"\x0a\x10") + 2  # Field 1 of a span, its trace id of 16 bytes.
    return body[:at] + bytes(16) + body[at + 16 :]


@pytest.mark.parametrize(
    ("changed", "content_type", "encoding"),
    [
        (lambda body: with_zero_id(body), PROTOBUF, None),
        (lambda body: body.replace(b"gpt", b"\xffpt"), PROTOBUF, None),
        (gzip.compress, PROTOBUF, "gzip"),
        (lambda body: body + b" ", "application/json", None),
        (lambda body: body[:-1], PROTOBUF, None),
    ],
    ids=["an id of zeros", "text that is not UTF-8", "compressed", "JSON", "cut off"],
)
def test_what_might_be_rejected_is_decoded_before_it_is_accepted(
    decoder: OtlpDecoder, body: bytes, changed: Callable[[bytes], bytes], content_type: str, encoding: str | None
) -> None:
    with closing(decoder.accept(changed(body), content_type, encoding, "user_a")) as reading:
        assert not reading.is_checked


def test_nothing_is_rejected_of_a_damaged_request_that_was_accepted_before_it_was_decoded() -> None:
    chance, accepted, some = random.Random(1), 0, otlp(rows("user_a", 1)[:10])
    for _ in range(2_000):
        damaged = bytearray(some)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        summary = known_summary(bytes(damaged), PROTOBUF)
        if summary is not None:
            assert read_otlp(bytes(damaged), PROTOBUF, None, "user_a").summary() == summary
            accepted += 1
    assert accepted > 200


@contextmanager
def killing(children: Callable[[], list[int]]) -> Iterator[None]:
    """Whatever process is begun meanwhile is killed."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.1):
            for pid in children():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def test_a_request_whose_process_is_killed_each_time_can_be_sent_again_and_is_not_called_too_large(
    lab: LabProcess, body: bytes
) -> None:
    def decoders() -> list[int]:
        children = psutil.Process(lab.process.pid).children()
        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in children if "timestep_lab.store.worker" in child.cmdline()]
        return []

    with lab.anonymous() as client:
        headers = {"Content-Type": PROTOBUF, "Content-Encoding": "gzip"}
        with killing(decoders):
            refused = client.post("/v1/traces", content=gzip.compress(body), headers=headers)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "was killed" in refused.json()["error"]["message"]
        assert client.post("/v1/traces", content=gzip.compress(body), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("returncode", "kind"),
    [
        (-signal.SIGKILL, StoreUnavailableError),
        (-signal.SIGTERM, StoreUnavailableError),
        (None, StoreUnavailableError),
        (-signal.SIGABRT, TooLargeError),
        (-signal.SIGSEGV, TooLargeError),
        (1, DataError),
    ],
)
def test_how_a_process_ended_decides_whether_its_input_is_worth_sending_again(
    returncode: int | None, kind: type[Exception]
) -> None:
    assert type(WorkerDied(returncode).as_error(2**30)) is kind
