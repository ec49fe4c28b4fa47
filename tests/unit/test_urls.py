"""URLs: taken apart, typed, and never shown with their password."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray import Dray, Url, UrlError, mask
from dray.urls import nearest

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory://", Url(scheme="memory")),
        ("sqlite:///tasks.db", Url(scheme="sqlite", path="/tasks.db")),
        ("sqlite:////var/lib/t.db", Url(scheme="sqlite", path="//var/lib/t.db")),
        ("REDIS://h", Url(scheme="redis", hosts=(("h", None),))),
        (
            "redis://user:pw@h:6379/2?timeout=5",
            Url(
                scheme="redis",
                username="user",
                password="pw",
                hosts=(("h", 6379),),
                path="/2",
                options={"timeout": "5"},
            ),
        ),
        ("redis://:pw@h", Url(scheme="redis", password="pw", hosts=(("h", None),))),
        ("redis://user@h", Url(scheme="redis", username="user", hosts=(("h", None),))),
        ("amqp://a:1,b,[::1]:3/v", Url(scheme="amqp", hosts=(("a", 1), ("b", None), ("::1", 3)), path="/v")),
        ("redis+tls://h", Url(scheme="redis+tls", hosts=(("h", None),))),
        (
            "amqp://us%65r:p%40%2F%3A@h/%2F",
            Url(scheme="amqp", username="user", password="p@/:", hosts=(("h", None),), path="//"),
        ),
        ("x://a:p@ss@h", Url(scheme="x", username="a", password="p@ss", hosts=(("h", None),))),
        ("x://h?a=1&b=&c=%26", Url(scheme="x", hosts=(("h", None),), options={"a": "1", "b": "", "c": "&"})),
        ("  memory://  ", Url(scheme="memory")),
    ],
)
def test_a_url_is_taken_apart(text: str, expected: Url) -> None:
    assert Url.parse(text) == expected


def test_the_first_host_and_port_are_at_hand() -> None:
    url = Url.parse("redis://a:1,b:2")
    assert (url.host, url.port) == ("a", 1)
    assert (Url.parse("memory://").host, Url.parse("memory://").port) == (None, None)


@pytest.mark.parametrize("text", ["", "redis", "redis:/h", "://h", "1x://h", "localhost:6379"])
def test_what_is_no_url_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UrlError, match="is not a URL.*for example sqlite:///tasks.db"):
        Url.parse(text)


@pytest.mark.parametrize("port", ["x", "0", "65536", "-1", ""])
def test_an_impossible_port_is_refused(port: str) -> None:
    with pytest.raises(UrlError, match="is not a number from 1 to 65535"):
        Url.parse(f"redis://u:{SECRET}@h:{port}")


@pytest.mark.parametrize("host", ["a[b", "[::1]x:1", "a]b:1"])
def test_an_impossible_host_is_refused(host: str) -> None:
    with pytest.raises(UrlError, match="is not a host"):
        Url.parse(f"redis://{host}")


# Options


class Options(msgspec.Struct):
    timeout: float = 5.0
    retries: int = 3
    tls: bool = False
    mode: Literal["fast", "safe"] = "fast"


def test_options_come_typed_with_their_defaults() -> None:
    found = Url.parse("x://h?timeout=2.5&tls=true&mode=safe").options_as(Options)
    assert found == Options(timeout=2.5, retries=3, tls=True, mode="safe")


def test_an_unknown_option_names_the_nearest_and_all_there_are() -> None:
    with pytest.raises(
        UrlError, match=r"x:// has no option 'timeot'; did you mean 'timeout'\? It knows: mode, retries,"
    ):
        Url.parse("x://h?timeot=1").options_as(Options)
    with pytest.raises(UrlError, match=r"x:// has no option 'zzz'\. It knows: mode"):
        Url.parse("x://h?zzz=1").options_as(Options)


@pytest.mark.parametrize("query", ["retries=many", "timeout=soon", "tls=perhaps", "mode=slow", "retries="])
def test_a_bad_value_of_an_option_names_the_option_and_hides_the_password(query: str) -> None:
    with pytest.raises(UrlError, match=query.partition("=")[0]) as caught:
        Url.parse(f"x://u:{SECRET}@h?{query}").options_as(Options)
    assert SECRET not in str(caught.value)


# Passwords


@pytest.mark.parametrize(
    "text",
    [
        f"redis://user:{SECRET}@h:1/0",
        f"redis://:{SECRET}@h",
        f"redis://:a@b:{SECRET}@h",
        f"cannot reach amqp://u:{SECRET}@h/v: refused",
        f"x://h?password={SECRET}&y=1",
        f"x://h?a=1&db_password={SECRET}",
        f"x://h?aws_secret_access_key={SECRET}",
        f"x://h?api_key={SECRET} and more",
        f"x://h?TOKEN={SECRET}",
        f"first redis://a:{SECRET}@b then amqp://c:{SECRET}@d",
        f"redis://u:pw/{SECRET}@h",
    ],
)
def test_secrets_are_masked_in_any_text(text: str) -> None:
    masked = mask(text)
    assert SECRET not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "text", ["sqlite:///tasks.db", "redis://h:6379/0?timeout=5", "user@example.com wrote: http://h/a", "", "a:b@c"]
)
def test_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_the_rest_of_a_masked_url_can_still_be_read() -> None:
    assert mask(f"redis://user:{SECRET}@h:1/0?db=2") == "redis://user:***@h:1/0?db=2"


@pytest.mark.parametrize("password", [SECRET, "p@ss", "a/b", "a:b", "***", "100%", "ä", "a?b#c", ""])
def test_a_password_is_hidden_in_str_and_repr_and_there_in_reveal(password: str) -> None:
    url = Url(scheme="redis", username="u", password=password, hosts=(("h", 1),), path="/0")
    for shown in (str(url), repr(url), f"{url}", f"{url!r}"):
        assert "u:***@h:1/0" in shown
    assert Url.parse(url.reveal()) == url


def test_an_app_never_shows_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Dray("x", broker=f"redis://u:{SECRET}@h", set_as_current=False)
    for shown in (repr(app), repr(app.conf), str(app.conf.shown())):
        assert SECRET not in shown


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1)
hosts = st.from_regex(r"[a-z0-9][a-z0-9.\-]{0,10}", fullmatch=True)


@given(
    username=st.none() | names,
    password=st.none() | names.filter(lambda text: text != "***"),
    host=hosts,
    port=st.none() | st.integers(1, 65535),
    options=st.dictionaries(names, st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))),
)
def test_what_reveal_writes_parse_reads(
    username: str | None, password: str | None, host: str, port: int | None, options: dict[str, str]
) -> None:
    url = Url(
        scheme="redis", username=username, password=password, hosts=((host, port),), path="/a b/%", options=options
    )
    assert Url.parse(url.reveal()) == url


@given(st.text())
def test_masking_never_fails_and_hides_no_more_the_second_time(text: str) -> None:
    assert mask(mask(text)) == mask(text)


def test_nearest_says_nothing_when_nothing_is_near() -> None:
    assert nearest("redsi", ["redis", "amqp"]) == "; did you mean 'redis'?"
    assert nearest("zzz", ["redis", "amqp"]) == ""
    assert nearest("redis", []) == ""


def test_a_password_in_a_url_within_an_option_is_masked_too() -> None:
    url = Url.parse("amqp://guest:guest@h/?management=http://guest:s3cret@h:15672")
    assert "s3cret" not in str(url)
    assert "s3cret" not in repr(url)
    assert url.reveal().count("s3cret") == 1
