"""The page of the web view in a real browser: a query typed, answered, drawn; it comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the packages of requirements/web.txt are not installed here")
pytest.importorskip("websockets")
from chromium import CHROMIUM, Browser, Tab, chromium
from web_server import served

from molmo_ros import Grounder, io
from molmo_ros.recording.reel import FolderReel
from molmo_ros.sim import SimCamera
from molmo_ros.web.recorded import RecordedSource

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
SEED, GOOD, ABSENT = 0, "the white bowl", "the blue banana"
HAND = (0x7F, 0xB2, 0xFF)  # colour of the hand's edges in 3D


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedSource]:
    folder = tmp_path_factory.mktemp("frames")
    camera = SimCamera(SEED)
    frame = camera.frame()
    io.write_color(folder / "a_color.png", frame.rgb)
    io.write_depth(folder / "a_depth.png", frame.depth)
    io.write_camera_info(folder / "camera_info.yaml", frame.K, camera.width, camera.height, "eye")
    grounder = Grounder.load()
    yield RecordedSource(FolderReel(folder), grounder)
    grounder.close()


def ready(tab: Tab, hidden: bool = False) -> None:
    """Connected; and, unless it lies behind another tab, sent the cloud, too."""
    tab.until("document.querySelector('#status.ok') !== null")
    if not hidden:
        tab.until("document.querySelector('#space-caption').textContent")


def ask(tab: Tab, query: str) -> None:
    tab.value("document.activeElement.blur(); document.querySelector('#query').value = ''")
    tab.press("/")  # by the keyboard alone
    tab.type(query)


def pixels(tab: Tab, path: Path, color: tuple[int, int, int]) -> int:
    """How many pixels of the 3D view are nearly of a colour."""
    box = tab.value("(() => { const b = document.querySelector('#canvas3d').getBoundingClientRect();"
                    "return [b.left, b.top, b.right, b.bottom] })()")  # fmt: skip
    left, top, right, bottom = (int(v) for v in box)
    shown = io.read_color(tab.screenshot(path))[top:bottom, left:right].astype(int)
    return int((np.abs(shown - color).max(axis=2) < 40).sum())


def test_a_query_is_typed_answered_and_drawn(
    browser: Browser, source: RecordedSource, tmp_path: Path
) -> None:
    with served(source) as (access, _), browser.tab() as tab:
        tab.go(access.url)
        ready(tab)
        before = pixels(tab, tmp_path / "before.png", HAND)
        ask(tab, GOOD)
        tab.until("document.querySelector('#rows .tag')?.textContent === 'OK'")
        assert "can be grasped" in tab.value("document.querySelector('#answer').innerText")
        assert tab.value("document.querySelector('[name=view]:checked').value") == "answer_image"
        tab.until("document.querySelector('#history').innerText.includes('1 target')")
        after = pixels(tab, tmp_path / "after.png", HAND)
        assert before < 50 and after > before + 150, (before, after)

        ask(tab, ABSENT)
        tab.until("document.querySelector('#answer').innerText.includes('Not there')")
        assert pixels(tab, tmp_path / "absent.png", HAND) < 50  # the old hand is gone
        ask(tab, "<img src=x onerror=alert(1)>")
        tab.until("document.querySelector('#history li').innerText.includes('onerror')")
        assert tab.value("document.querySelectorAll('#history img, #answer img').length") == 0
        assert tab.problems == [] or all("WebGL" in text for text in tab.problems), tab.problems


def test_a_second_page_sees_it_and_both_come_back_when_the_server_does(
    browser: Browser, source: RecordedSource
) -> None:
    with browser.tab() as behind, browser.tab() as front:
        with served(source) as (access, _):
            for tab in (behind, front):
                tab.go(access.url)
                ready(tab, hidden=True)
            ask(front, GOOD)
            behind.until("document.querySelector('#rows .tag')?.textContent === 'OK'")
        for tab in (behind, front):
            tab.until("document.querySelector('#status').textContent === 'not connected'")
            assert "does not answer" in tab.value("document.querySelector('#notice').innerText")
        with served(source, port=access.port):
            for tab in (behind, front):
                ready(tab, hidden=True)
                assert tab.value("document.querySelector('#notice').hidden")
            ask(front, ABSENT)
            behind.until("document.querySelector('#answer').innerText.includes('Not there')")


def test_it_is_turned_and_the_theme_changes(browser: Browser, source: RecordedSource, tmp_path: Path) -> None:
    with served(source) as (access, _), browser.tab() as tab:
        tab.go(access.url)
        ready(tab)
        tab.value("document.querySelector('#canvas3d').focus()")
        before = io.read_color(tab.screenshot(tmp_path / "a.png"))
        for _ in range(5):
            tab.press("ArrowLeft")
        after = io.read_color(tab.screenshot(tmp_path / "b.png"))
        assert (before[150:600, 520:1000] != after[150:600, 520:1000]).mean() > 0.1
        theme = tab.value("document.documentElement.dataset.theme")
        tab.value("document.querySelector('#theme').click()")
        assert tab.value("document.documentElement.dataset.theme") != theme
        background = tab.value("getComputedStyle(document.body).backgroundColor")
        assert background in ("rgb(238, 240, 243)", "rgb(16, 19, 24)")
