"""Signed and encrypted messages and results: what is not sealed as it should be is never run, and never believed."""

from __future__ import annotations

import builtins
import hashlib
import hmac
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dray import (
    ConfigurationError,
    DecodeError,
    Dray,
    Envelope,
    ManualClock,
    PluginError,
    Record,
    Retry,
    Seal,
    SettingError,
    Settings,
    Task,
    UnknownPlugin,
    hookimpl,
)
from dray.codec import pack, unpack
from dray.message import Message
from dray.sealing import Sealing, message_in
from dray.testing import Driver, Enqueued, memory_app
from dray.testing.held_clock import HeldClock
from dray_serializers.ed25519 import Ed25519
from dray_serializers.encryption import AesGcm, Xaes
from dray_serializers.signing import Hmac

SECRET, OTHER = "correct horse battery staple, forty of them", "another horse, another battery, other staples"


def pem(key: Any, password: bytes | None = None) -> str:
    """Return a private key as openssl writes it."""
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    return text.decode()


def public(private: str) -> str:
    """Return the public half of a private key."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(private.encode(), None).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


PRIVATE, OTHER_PRIVATE = (pem(ed25519.Ed25519PrivateKey.generate()) for _ in range(2))

#: Each seal with a key, and with another one.
KEYS = {"hmac": (SECRET, OTHER), "ed25519": (PRIVATE, OTHER_PRIVATE), "aes-gcm": (SECRET, OTHER)}
SEALS: dict[str, Seal] = {"hmac": Hmac(SECRET), "ed25519": Ed25519(PRIVATE), "aes-gcm": AesGcm(SECRET)}

each_seal = pytest.mark.parametrize("name", SEALS)
MESSAGE = Message(id="id-1", task="shop.pay", queue="q", headers={"tenant": "acme"}, payload=b"[[1],{}]", expires=9.0)


def sealing(name: str | None, *accepted: str, **keys: str) -> Sealing:
    """Return the sealing of an app with these settings."""
    found = memory_app(
        HeldClock(), message_security=name, message_keys=keys, message_security_accept=list(accepted)
    ).sealing
    assert found is not None
    return found


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(DecodeError) as caught:
        call()
    return str(caught.value)


# Seals


@each_seal
@settings(max_examples=40)
@given(content=st.binary(max_size=300), bound=st.binary(max_size=50))
def test_what_is_sealed_opens_with_what_was_bound(name: str, content: bytes, bound: bytes) -> None:
    seal = SEALS[name]
    assert seal.open(seal.seal(content, bound), bound) == content


@each_seal
@settings(max_examples=120)
@given(content=st.binary(max_size=60), data=st.data())
def test_any_bit_that_is_changed_is_refused(name: str, content: bytes, data: st.DataObject) -> None:
    sealed = bytearray(SEALS[name].seal(content, b"bound"))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        SEALS[name].open(bytes(sealed), b"bound")


@each_seal
def test_what_is_cut_off_or_longer_is_refused(name: str) -> None:
    sealed = SEALS[name].seal(b"content", b"bound")
    for wrong in [*(sealed[:end] for end in range(len(sealed))), *(sealed[n:] for n in range(1, len(sealed)))]:
        assert refused(lambda wrong=wrong: SEALS[name].open(wrong, b"bound"))  # type: ignore[misc]
    assert refused(lambda: SEALS[name].open(sealed + b"\0", b"bound"))


@each_seal
@settings(max_examples=40)
@given(noise=st.binary(max_size=200))
def test_noise_is_refused(name: str, noise: bytes) -> None:
    with pytest.raises(DecodeError):
        SEALS[name].open(noise, b"bound")


@each_seal
def test_what_was_bound_must_be_the_same_to_the_byte(name: str) -> None:
    sealed = SEALS[name].seal(b"content", b"bound")
    for wrong in (b"", b"Bound", b"boun", b"bound ", b"boundc"):
        assert refused(lambda wrong=wrong: SEALS[name].open(sealed, wrong))  # type: ignore[misc]


@each_seal
def test_another_key_does_not_open_it(name: str) -> None:
    other = type(SEALS[name])(KEYS[name][1])
    assert refused(lambda: other.open(SEALS[name].seal(b"content", b""), b""))


@each_seal
def test_what_follows_the_bound_bytes_cannot_be_pushed_over_the_border(name: str) -> None:
    seal = sealing(name, k=KEYS[name][0])
    assert refused(lambda: seal.open(seal.seal(b"content", "message", "ab"), "message", "a", "b"))


@each_seal
def test_eight_threads_share_one_seal(name: str) -> None:
    def work(number: int) -> bool:
        data = str(number).encode() * 100
        return all(SEALS[name].open(SEALS[name].seal(data, b""), b"") == data for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_encryption_never_uses_a_nonce_twice_and_shows_nothing_but_the_length() -> None:
    sealed = [AesGcm(SECRET).seal(b"the same content", b"") for _ in range(50)]
    assert len({one[:24] for one in sealed}) == 50
    assert {len(one) for one in sealed} == {24 + 16 + 16}
    assert not any(b"same" in one for one in sealed)


def test_encryption_is_xaes_256_gcm_as_it_was_published() -> None:
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    plain = b"XAES-256-GCM"
    low, high = Xaes(b"\x01" * 32), Xaes(b"\x03" * 32)
    assert low.encrypt(nonce, plain, b"").hex() == "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"
    assert (
        high.encrypt(nonce, plain, b"c2sp.org/XAES-256-GCM").hex()
        == "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"
    )


def test_a_public_key_opens_and_cannot_seal() -> None:
    reader = Ed25519(public(PRIVATE))
    assert (Ed25519(PRIVATE).can_seal, reader.can_seal) == (True, False)
    assert reader.open(SEALS["ed25519"].seal(b"content", b"b"), b"b") == b"content"


@pytest.mark.parametrize(
    ("kind", "secret", "complaint"),
    [
        (Hmac, "hunter2", "a secret of 7 characters can be guessed; at least 32 random ones are needed: python -c"),
        (AesGcm, "hunter2" * 4, "a secret of 28 characters"),
        (Hmac, PRIVATE, "it is a PEM key, and this seal takes a secret text that both sides know"),
        (AesGcm, public(PRIVATE), "it is a PEM key"),
        (Ed25519, SECRET, "no Ed25519 key in PEM without a password: openssl genpkey -algorithm ed25519 makes"),
        (Ed25519, pem(ec.generate_private_key(ec.SECP256R1())), "no Ed25519 key"),
        (Ed25519, public(pem(ec.generate_private_key(ec.SECP256R1()))), "no Ed25519 key"),
        (Ed25519, pem(ed25519.Ed25519PrivateKey.generate(), b"password"), "no Ed25519 key in PEM without a password"),
        (Ed25519, PRIVATE[:60], "no Ed25519 key"),
    ],
    # Named: keys are drawn anew in every process, and tests that go side by side are told apart by their names.
    ids=[
        "short for hmac", "short for aes-gcm", "a private key for hmac", "a public key for aes-gcm", "a text",
        "a private key of another kind", "a public key of another kind", "a key with a password", "half a key",
    ],
)  # fmt: skip
def test_a_secret_that_cannot_be_used_is_refused_and_not_repeated(kind: type[Any], secret: str, complaint: str) -> None:
    with pytest.raises(SettingError) as caught:
        kind(secret)
    assert complaint in str(caught.value)
    assert secret not in str(caught.value) and "PRIVATE KEY" not in str(caught.value)


def test_one_secret_gives_another_key_for_every_purpose() -> None:
    assert Hmac(SECRET)._key != AesGcm(SECRET)._cipher._key != Hmac(OTHER)._key


# Bodies


def test_without_the_settings_nothing_is_sealed() -> None:
    assert memory_app(HeldClock()).sealing is None


def test_a_body_signed_by_hand_byte_by_byte_is_read() -> None:
    extracted = hmac.new(bytes(32), SECRET.encode(), hashlib.sha256).digest()
    key = hmac.new(extracted, b"dray hmac-sha256\x01", hashlib.sha256).digest()
    head = (
        b"\xd7D1"  # magic, version
        b"\x10"  # flags: sealed
        b"\x0e"  # the head is 14 bytes long
        b"\x92"  # an array of two
        b"\xa4hmac"  # the seal's name
        b"\xa72026-11"  # the key's id
    )
    inside = b"\xd7D1\x00\x0d\x82\xa2id\xa4id-1\xa1t\xa1t[[],{}]"
    bound = b"\x92\xa7message\xa4id-1" + head
    body = head + hmac.new(key, bound + inside, hashlib.sha256).digest() + inside
    seal = sealing("hmac", **{"2026-11": SECRET})
    assert seal.message(body, "id-1") == Message(id="id-1", task="t", payload=b"[[],{}]")
    assert seal.seal(inside, "message", "id-1") == body


@each_seal
@settings(max_examples=150)
@given(data=st.data())
def test_any_bit_of_a_body_that_is_changed_is_refused(name: str, data: st.DataObject) -> None:
    seal = SEALINGS[name]
    body = bytearray(seal.seal(pack(MESSAGE), "message", "id-1"))
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    body[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        seal.message(bytes(body), "id-1")


@each_seal
def test_a_body_cut_off_anywhere_is_refused(name: str) -> None:
    seal = SEALINGS[name]
    body = seal.seal(pack(MESSAGE), "message", "id-1")
    for end in range(len(body)):
        assert refused(lambda end=end: seal.message(body[:end], "id-1"))  # type: ignore[misc]
    assert seal.message(body, "id-1") == MESSAGE


@each_seal
def test_a_body_under_another_id_or_from_the_result_backend_is_refused(name: str) -> None:
    seal = SEALINGS[name]
    assert "moved to another id" in refused(lambda: seal.message(seal.seal(pack(MESSAGE), "message", "id-1"), "id-2"))
    assert refused(lambda: seal.message(seal.seal(pack(MESSAGE), "result", "id-1"), "id-1"))


@given(st.binary(max_size=300))
@example(b"\xd7D1\x10\x80\x80\x80\x80\x80\x80")
@example(b"\xd7D1\x10\xff\xff\xff\xff\x0f")
@example(b"\xd7D1\x10\x01\xc0")
def test_any_bytes_at_all_are_refused_in_words(body: bytes) -> None:
    for candidate in (body, b"\xd7D1\x10" + body, b"\xd7D1\x10\x0e\x92\xa4hmac\xa72026-11" + body):
        assert refused(lambda candidate=candidate: SEALINGS["hmac"].message(candidate, "id-1"))  # type: ignore[misc]


SEALINGS = {name: sealing(name, **{"2026-11": keys[0]}) for name, keys in KEYS.items()}


def test_what_is_not_sealed_is_refused_in_words() -> None:
    assert refused(lambda: SEALINGS["hmac"].message(pack(MESSAGE), "id-1")) == (
        "it is not sealed, and only what is sealed with 'hmac' is read here (message_security, message_security_accept)"
    )
    assert "it is empty" in refused(lambda: SEALINGS["hmac"].message(b"", "id-1"))
    assert "this is a Celery message" in refused(lambda: SEALINGS["hmac"].message(b"[[1], {}, {}]", "id-1"))


def test_what_another_key_or_seal_has_sealed_is_refused_in_words() -> None:
    old = sealing("hmac", old=SECRET).seal(pack(MESSAGE), "message", "id-1")
    new = sealing("hmac", new=SECRET, newer=OTHER)
    assert refused(lambda: new.message(old, "id-1")) == (
        "sealed with 'hmac' and the key 'old': there is no such key in message_keys; there is 'new', 'newer'"
    )
    renamed = sealing("hmac", old=OTHER)
    assert "sealed with 'hmac' and the key 'old': the signature does not fit" in refused(
        lambda: renamed.message(old, "id-1")
    )
    assert refused(lambda: sealing("aes-gcm", old=SECRET).message(old, "id-1")) == (
        "sealed with 'hmac' and the key 'old': only 'aes-gcm' is accepted here "
        "(message_security, message_security_accept)"
    )


def test_a_key_in_rotation_is_read_before_it_is_used_and_after() -> None:
    before, during, after = sealing("hmac", a=SECRET), sealing("hmac", b=OTHER, a=SECRET), sealing("hmac", b=OTHER)
    prepared = sealing("hmac", a=SECRET, b=OTHER)
    old, new = (one.seal(pack(MESSAGE), "message", "id-1") for one in (before, during))
    assert prepared.seal(pack(MESSAGE), "message", "id-1") == old
    for reader in (prepared, during):
        assert reader.message(old, "id-1") == reader.message(new, "id-1") == MESSAGE
    assert after.message(new, "id-1") == MESSAGE
    assert "no such key" in refused(lambda: after.message(old, "id-1"))
    assert "no such key" in refused(lambda: before.message(new, "id-1"))


def test_unsealed_bodies_are_read_during_a_migration_only() -> None:
    moving = sealing("hmac", "none", a=SECRET)
    assert moving.message(pack(MESSAGE), "id-1") == MESSAGE
    assert unpack(moving.open(moving.seal(pack(MESSAGE), "message", "x"), "message", "x")) == MESSAGE
    assert "not sealed" in refused(lambda: sealing("hmac", a=SECRET).message(pack(MESSAGE), "id-1"))


def test_readers_can_be_ready_before_anybody_seals() -> None:
    ready = sealing(None, "hmac", a=SECRET)
    assert ready.seal(pack(MESSAGE), "message", "id-1") == pack(MESSAGE)
    assert ready.message(pack(MESSAGE), "id-1") == MESSAGE
    assert ready.message(sealing("hmac", a=SECRET).seal(pack(MESSAGE), "message", "id-1"), "id-1") == MESSAGE


def test_from_one_seal_to_another_both_are_read() -> None:
    signed = sealing("ed25519", one=PRIVATE).seal(pack(MESSAGE), "message", "id-1")
    moving = sealing("aes-gcm", "ed25519", two=SECRET, one=public(PRIVATE))
    assert moving.message(signed, "id-1") == MESSAGE
    encrypted = moving.seal(pack(MESSAGE), "message", "id-1")
    assert b"aes-gcm" in encrypted and b"shop.pay" not in encrypted
    assert "that key is for another seal" in refused(lambda: moving.message(encrypted.replace(b"two", b"one"), "id-1"))


def test_nobody_signs_with_a_public_key_as_if_it_were_a_secret() -> None:
    reader = sealing("ed25519", "hmac", a=PRIVATE, b=public(PRIVATE), c=SECRET)
    known = hmac.digest(bytes(32), public(PRIVATE).strip().encode(), "sha256")
    key = hmac.digest(known, b"dray hmac-sha256\x01", "sha256")
    head = b"\xd7D1\x10\x08\x92\xa4hmac\xa1b"
    inside = pack(MESSAGE)
    forged = head + hmac.digest(key, b"\x92\xa7message\xa4id-1" + head + inside, "sha256") + inside
    assert "that key is for another seal" in refused(lambda: reader.message(forged, "id-1"))


# Settings


def test_keys_are_texts_or_point_to_the_environment_or_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", SECRET)
    (tmp_path / "key").write_text(f"{SECRET}\n")
    body = sealing("hmac", a=SECRET).seal(b"content", "message", "id-1")
    for reference in (SECRET, f" {SECRET} ", "env:SHOP_KEY", f"file:{tmp_path}/key"):
        assert sealing("hmac", a=reference).open(body, "message", "id-1") == b"content"


def configured_wrong(**given: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        memory_app(HeldClock(), **given).sealing  # noqa: B018
    return str(caught.value)


def test_keys_that_are_not_there_are_named_without_a_word_of_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_KEY", raising=False)
    (tmp_path / "binary").write_bytes(b"secret\xff")

    def wrong(reference: str) -> str:
        return configured_wrong(message_security="hmac", message_keys={"a": reference})

    assert wrong("env:SHOP_KEY") == "message_keys['a']: the environment variable SHOP_KEY is not set, or empty"
    assert wrong(f"file:{tmp_path}/none") == f"message_keys['a']: cannot read '{tmp_path}/none': {no_such_file()}"
    assert wrong(f"file:{tmp_path}/binary").endswith("binary': it is not text in UTF-8")
    assert wrong("short") == (
        "message_keys['a']: a secret of 5 characters can be guessed; at least 32 random ones are needed: "
        "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
    )


def no_such_file() -> str:
    try:
        builtins.open("/no/such/file").close()
    except OSError as error:
        return str(error.strerror)
    raise AssertionError


def test_settings_that_would_protect_nothing_are_errors() -> None:
    assert "message_security is not, so nothing would be protected" in configured_wrong(message_keys={"a": SECRET})
    assert "needs a key in message_keys that seals; found no key" in configured_wrong(message_security="hmac")
    only_public = configured_wrong(message_security="ed25519", message_keys={"a": public(PRIVATE)})
    assert "found 'a'. To read only, set message_security_accept = ['ed25519'] instead" in only_public
    with pytest.raises(UnknownPlugin, match="no seal called 'hmca' is installed; did you mean 'hmac'?"):
        memory_app(HeldClock(), message_security="hmca", message_keys={"a": SECRET}).sealing  # noqa: B018


def test_a_worker_without_its_keys_does_not_start(dray_clock: ManualClock) -> None:
    app = memory_app(dray_clock, message_security="hmac", message_keys={"a": "env:NO_SUCH_KEY"})
    with pytest.raises(ConfigurationError, match="NO_SUCH_KEY is not set"):
        app.worker().start()


def test_secrets_are_shown_nowhere_and_what_points_to_them_is() -> None:
    conf = Settings(message_keys={"a": SECRET, "b": "env:SHOP_KEY", "c": "file:/run/secrets/key"})
    expected = "{'a': '***', 'b': 'env:SHOP_KEY', 'c': 'file:/run/secrets/key'}"
    assert conf.shown()["message_keys"] == expected
    assert repr(conf) == f"Settings(message_keys={expected})"
    assert conf.__rich_repr__() == [("message_keys", expected)]
    for wrong in ({"a key": SECRET}, {"a": SECRET.encode()}, f'{{"a": "{SECRET}', [SECRET], {"a": ""}):
        with pytest.raises(SettingError) as caught:
            conf.update(message_keys=wrong)
        assert "message_keys = (not shown)" in str(caught.value) and SECRET not in str(caught.value)


def test_secrets_of_settings_libraries_are_taken_out_of_their_wrappers() -> None:
    class SecretStr:
        def get_secret_value(self) -> str:
            return SECRET

    assert Settings.load({"message_keys": {"a": SecretStr()}}, environ={"DRAY_CONFIG": ""}).message_keys["a"] == SECRET


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "dray_serializers.encryption", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(PluginError, match=r"seal 'aes-gcm' .*pip install 'dray\[crypto\]'"):
        memory_app(HeldClock(), message_security="aes-gcm", message_keys={"a": SECRET}).sealing  # noqa: B018


def test_hmac_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert sealing("hmac", a=SECRET).seal(b"content", "message", "id-1")


def test_a_plugin_brings_a_seal_of_its_own(dray_clock: ManualClock) -> None:
    class Rot13(Seal):
        name = "rot13"

        def __init__(self, secret: str) -> None:
            self.secret = secret

        def seal(self, content: bytes, bound: bytes) -> bytes:
            return content[::-1]

        def open(self, sealed: bytes, bound: bytes) -> bytes:
            return sealed[::-1]

    class Plugin:
        @hookimpl
        def register_seals(self, register: Callable[[str, Any], None]) -> None:
            register("rot13", Rot13)

    app = memory_app(dray_clock, message_security="rot13", message_keys={"a": "x"})
    app.plugins.register(Plugin())
    add = app.task(name="add")(lambda x, y: x + y)
    sent = add.delay(1, 2)
    Driver(app).run_until_idle()
    assert sent.get() == 3


# Through a worker


@pytest.fixture(params=KEYS)
def app(request: pytest.FixtureRequest, dray_clock: ManualClock) -> Iterator[Dray]:
    """An app that seals, once with each seal."""
    keys = {"2026-11": KEYS[request.param][0], "2026-10": KEYS[request.param][1]}
    made = memory_app(dray_clock, message_security=request.param, message_keys=keys, result_extended=True)
    with made, made.as_current():
        yield made


def bodies(app: Dray) -> list[bytes]:
    return [waiting.body for queue in app.broker.queues() for waiting in app.broker.peek(queue, 100)]


def stored(app: Dray, id: str) -> Record:
    assert app.backend is not None
    return app.backend.fetch([id])[id]


def test_everything_that_leaves_a_sealing_app_is_sealed_and_all_of_it_works(app: Dray) -> None:
    seen: list[bytes] = []

    class Plugin:
        @hookimpl
        def event(self, event: Any) -> None:
            seen.extend(bodies(app))

    app.plugins.register(Plugin())

    @app.task(name="told")
    def told(*values: Any) -> list[Any]:
        return list(values)

    @app.task(name="work", bind=True, track_started=True)
    def work(self: Task[Any, Any], word: str) -> str:
        self.update_state(state="PROGRESS", meta={"half": word})
        if not self.request.retries:
            raise Retry(countdown=5)
        told.delay("child")
        return word * 2

    sent = work.apply_async(("marzipan",), link=told.s("linked"), headers={"tenant": "marzipan"}, countdown=1)
    driver = Driver(app)
    driver.advance(2)
    assert (sent.state, sent.name) == ("RETRY", "work")
    driver.advance(10)
    assert sent.get() == "marzipanmarzipan"
    assert (sent.args, sent.retries) == (("marzipan",), 1)
    (child,) = sent.children
    assert child.get() == ["child"]
    assert app.AsyncResult(f"{sent.id}-l0").get() == ["marzipanmarzipan", "linked"]
    assert all(body.startswith(b"\xd7D1\x10") for body in seen) and seen
    assert stored(app, sent.id).body.startswith(b"\xd7D1\x10")


def test_encrypted_bodies_show_nothing_and_signed_ones_can_be_read(app: Dray) -> None:
    echo = app.task(name="shop.echo")(lambda word: word)
    sent = echo.apply_async(("marzipan",), headers={"tenant": "nougat"}, link=echo.s())
    (body,) = bodies(app)
    Driver(app).run_until_idle()
    result = stored(app, sent.id).body
    hidden = app.conf.message_security == "aes-gcm"
    for word in (b"marzipan", b"nougat", b"shop.echo"):
        assert (word in body) is not hidden
    assert (b"marzipan" in result) is not hidden
    assert sent.get() == "marzipan"


def test_what_is_not_sealed_as_it_should_be_is_buried_and_never_run(app: Dray) -> None:
    ran: list[int] = []
    pay = app.task(name="shop.pay")(ran.append)
    name, (_, other) = app.conf.message_security, KEYS[app.conf.message_security or ""]
    good = app.payloads.encode(Message(id="good", task="shop.pay", args=(1,)), "json", None)
    sealed = app.sender.enclose(good).body
    theirs = memory_app(HeldClock(), message_security=name, message_keys={"2026-11": other})
    other_name = next(one for one in KEYS if one != name)
    another = memory_app(HeldClock(), message_security=other_name, message_keys={"2026-11": KEYS[other_name][0]})
    planted = {
        "plain": (pack(good.but(id="plain")), "it is not sealed"),
        "moved": (sealed, "moved to another id"),
        "changed": (theirs.sender.enclose(good.but(id="changed")).body, "2026-11': "),
        "another": (another.sender.enclose(good.but(id="another")).body, f"only '{name}' is accepted here"),
        "cut": (sealed[:-1], "2026-11': "),
        "head": (sealed[:9], "it is sealed, and says not readably how"),
        "celery": (b"[[1], {}, {}]", "this is a Celery message"),
    }
    app.broker.publish([Envelope(id=id, queue="default", body=body) for id, (body, _) in planted.items()])
    sent = pay.delay(7)
    Driver(app).run_until_idle()
    assert ran == [7] and sent.successful()
    letters = {letter.id: letter for letter in app.broker.dead("default", 10)}
    assert letters.keys() == planted.keys()
    for id, (body, reason) in planted.items():
        assert letters[id].reason.startswith("unreadable: ") and reason in letters[id].reason, letters[id].reason
        assert letters[id].body == body


def test_a_message_may_come_with_the_key_that_was_used_before(app: Dray) -> None:
    pay = app.task(name="shop.pay")(lambda n: n)
    before = memory_app(
        HeldClock(),
        message_security=app.conf.message_security,
        message_keys={"2026-10": app.conf.message_keys["2026-10"]},
    )
    old = before.payloads.encode(Message(id="old", task=pay.name, args=(7,)), "json", None)
    app.broker.publish([before.sender.enclose(old)])
    Driver(app).run_until_idle()
    assert app.AsyncResult("old").get() == 7


def test_a_result_that_is_not_sealed_as_it_should_be_is_not_believed(app: Dray) -> None:
    assert app.backend is not None
    pay = app.task(name="shop.pay")(lambda n: n)
    sent, other = pay.delay(1), pay.delay(2)
    Driver(app).run_until_idle()
    record, swapped = stored(app, sent.id), stored(app, other.id)
    bare = msgspec.msgpack.encode({"s": "SUCCESS", "v": b"1000000"})
    forged = {
        "swapped": msgspec.structs.replace(swapped, id=sent.id),
        "plain": msgspec.structs.replace(record, body=bare),
        "cut": msgspec.structs.replace(record, body=record.body[:-1]),
        "another state": msgspec.structs.replace(record, state="FAILURE"),
        "not final any more": msgspec.structs.replace(record, final=False),
        "a message": msgspec.structs.replace(record, body=app.sender.enclose(MESSAGE.but(id=sent.id)).body),
        "empty": msgspec.structs.replace(record, body=b""),
    }
    for wrong in forged.values():
        app.backend.forget([sent.id])
        app.backend.store([wrong], None)
        result = app.AsyncResult(sent.id)
        for look in (lambda r=result: r.get(timeout=1), lambda r=result: r.state, lambda r=result: r.result):
            with pytest.raises(DecodeError, match=f"what is stored about the task {sent.id} cannot be used: "):
                look()  # type: ignore[no-untyped-call]
    app.backend.forget([sent.id])
    app.backend.store([record], None)
    assert app.AsyncResult(sent.id).get() == 1


def test_progress_cannot_be_passed_off_as_a_result(app: Dray) -> None:
    assert app.backend is not None
    task = app.task(name="shop.pay")(lambda: None)
    task.update_state("t-1", state="SUCCESS", meta=1_000_000)
    result = app.AsyncResult("t-1")
    assert result.info == 1_000_000
    app.backend.store([msgspec.structs.replace(stored(app, "t-1"), final=True)], None)
    with pytest.raises(DecodeError, match="moved to another id"):
        app.AsyncResult("t-1").get(timeout=1)


async def test_waiting_for_a_forged_result_ends(app: Dray) -> None:
    assert app.backend is not None
    app.backend.store([Record(id="t-1", state="SUCCESS", final=True, body=b"\x81\xa1s\xa7SUCCESS")], None)
    with pytest.raises(DecodeError, match="not sealed"):
        await app.AsyncResult("t-1").aget(timeout=5)


def test_without_sealing_a_damaged_result_is_an_error_in_words_too(dray_app: Dray) -> None:
    assert dray_app.backend is not None
    for body in (b"", b"\xff\xff", b"\x81\xa1s\x05", SEALINGS["hmac"].seal(b"x", "result", "t-1", "SUCCESS", True)):
        dray_app.backend.forget(["t-1"])
        dray_app.backend.store([Record(id="t-1", state="SUCCESS", final=True, body=body)], None)
        with pytest.raises(DecodeError, match="what is stored about the task t-1 cannot be used"):
            dray_app.AsyncResult("t-1").get(timeout=1)


def test_eager_tasks_and_the_test_fixtures_work_on_a_sealing_app(app: Dray) -> None:
    app.conf.update(task_store_eager_result=True)
    pay = app.task(name="shop.pay")(lambda n: n)
    assert pay.apply((3,)).get() == 3
    sent = pay.delay(4)
    Enqueued(app).assert_enqueued(pay, args=(4,), count=1)
    assert message_in(app.sealing, bodies(app)[0], sent.id).task == "shop.pay"
