"""JupyterLab in a real browser runs the quickstart: what a person would see is on the page.

Needs JupyterLab and Playwright (extra ``test``) and Debian's ``chromium``, or any other whose path is in
``CHROMIUM``; it is the only test that does. ``SHAREDARRAY_SCREENSHOTS`` names a directory that keeps the
pictures.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from helpers import ROOT, block_files, nothing_left, run, wait_until

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

DRIVER = r"""
import json, os, shutil, signal, subprocess, sys, time, urllib.request
from pathlib import Path
from playwright.sync_api import sync_playwright

GATHER = '''() => {
    const all = (where, what) => [...where.querySelectorAll(what)];
    return all(document, ".jp-Notebook .jp-CodeCell").map(cell => {
        const shown = cell.querySelector(".jp-OutputArea") ?? document.createElement("div");
        return {
            prompt: cell.querySelector(".jp-InputPrompt")?.innerText ?? "",
            text: shown.innerText,
            tables: all(shown, ".jp-RenderedHTML table").map(table => table.innerText),
            images: all(shown, "img").map(image => [image.naturalWidth, image.naturalHeight, image.alt]),
            bars: all(shown, ".progress-bar").map(bar => bar.style.width),
            errors: all(shown, "[data-mime-type$=error], [data-mime-type$=stderr]").length,
        };
    });
}'''
notebook, home, chromium, pictures = sys.argv[1:]
work = Path(home, "work")
work.mkdir(parents=True)
shutil.copy(notebook, work)
name = Path(notebook).name
# Without what is stored in it: all that is on the page has come by running it here.
path = work / name
content = json.loads(path.read_text())
for cell in content["cells"]:
    if cell["cell_type"] == "code":
        cell["outputs"], cell["execution_count"] = [], None
content["metadata"].pop("widgets", None)
path.write_text(json.dumps(content))

settings = Path(os.environ["JUPYTER_CONFIG_DIR"], "labconfig", "default_setting_overrides.json")
settings.parent.mkdir(parents=True)
settings.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}))
server = subprocess.Popen(
    [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0",
     "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
     "--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={work}",
     "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
    stdout=open(f"{home}/server.log", "w"), stderr=subprocess.STDOUT, start_new_session=True,
)
try:
    address = None
    deadline = time.monotonic() + 60
    while address is None:
        assert server.poll() is None and time.monotonic() < deadline, Path(home, "server.log").read_text()
        for file in Path(os.environ["JUPYTER_RUNTIME_DIR"]).glob("jpserver-*.json"):
            try:
                address = json.loads(file.read_text())["url"]
            except ValueError:
                pass  # it is just being written
        time.sleep(0.05)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        )
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        dialogs = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(f"{address}lab/tree/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        # Until the kernel is there; before, 'Run All' would ask which one.
        page.wait_for_selector("#jp-main-statusbar >> text=/Python 3.*Idle/", timeout=60_000)
        page.keyboard.press("Control+b")  # the files, which are of no interest
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_timeout(500)
        if page.locator(".jp-Dialog .jp-mod-accept").count():
            page.locator(".jp-Dialog .jp-mod-accept").click()
        cells = sum(cell["cell_type"] == "code" for cell in content["cells"])

        # Cells out of sight are not on the page, so the page is walked through, as a person would.
        seen = {}
        deadline = time.monotonic() + 40
        pictures_taken = 0

        def gather():
            return page.evaluate(GATHER)

        def done():
            prompts = page.evaluate('[...document.querySelectorAll(".jp-InputPrompt")].map(p => p.innerText)')
            return any(f"[{cells}]" in prompt for prompt in prompts)

        scroller = ".jp-WindowedPanel-outer"
        while not done():
            if time.monotonic() > deadline:
                page.screenshot(path=f"{pictures}/failed.png")
                raise AssertionError(gather())
            page.evaluate(f'document.querySelector("{scroller}")?.scrollTo(0, 1e9)')
            page.wait_for_timeout(200)
        page.evaluate(f'document.querySelector("{scroller}")?.scrollTo(0, 0)')
        at, height = 0, 1
        while at < height:
            page.evaluate(f'document.querySelector("{scroller}").scrollTo(0, {at})')
            page.wait_for_timeout(400)
            for cell in gather():
                seen[cell["prompt"]] = cell
            page.screenshot(path=f"{pictures}/quickstart_{pictures_taken}.png")
            pictures_taken += 1
            at += 700
            # The last screen is whole, and there is an empty one below it.
            left = "panel => panel.scrollHeight - panel.clientHeight"
            height = page.locator(scroller).evaluate(left)
        browser.close()
finally:
    server.send_signal(signal.SIGTERM)  # which shuts the kernels down
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        raise

print(json.dumps({"cells": list(seen.values()), "count": cells, "dialogs": dialogs}))
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_quickstart_in_jupyterlab(tmp_path: Path) -> None:
    import json

    pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install 'numpy-sharedarray[test]'")
    pytest.importorskip("playwright", reason="needs Playwright: pip install 'numpy-sharedarray[test]'")
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium, or CHROMIUM=/path/to/one")
    pictures = Path(os.environ.get("SHAREDARRAY_SCREENSHOTS") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    home = tmp_path / "home"
    told = run(
        DRIVER,
        ROOT / "notebooks" / "01_quickstart.ipynb",
        home,
        CHROMIUM,
        pictures,
        timeout=220,
        IPYTHONDIR=str(home),
        JUPYTER_RUNTIME_DIR=str(home / "runtime"),
        JUPYTER_CONFIG_DIR=str(home / "config"),
        JUPYTER_DATA_DIR=str(home / "data"),
    )
    found = json.loads(told.stdout.splitlines()[-1])
    cells = [cell for cell in found["cells"] if cell["prompt"].strip("[]: ").isdigit()]
    assert len(cells) == found["count"], [cell["prompt"] for cell in found["cells"]]
    assert not found["dialogs"]
    assert not any(cell["errors"] for cell in cells)

    # The HTML view: its facts as a table, and the picture, decoded by the browser.
    view = next(cell for cell in cells if cell["tables"] and "SharedArray" in cell["tables"][0])
    for fact in ("name", "heights", "(344, 403)", "int16", "r+ (read and write)", "this process"):
        assert fact in view["tables"][0]
    wide, high, alt = view["images"][0]
    assert (alt, wide > 50, high > 50) == ("the data as an image", True, True)
    # The output of the second kernel, the table of blocks with two holders, the bar at its end, and the plot.
    text = "\n".join(cell["text"] for cell in cells)
    assert "sees (344, 403) int16" in text
    assert any("2: " in table and "holders" in table for cell in cells for table in cell["tables"])
    bars = [cell for cell in cells if cell["bars"]]
    assert bars
    assert "43/43" in bars[0]["text"]
    assert bars[0]["bars"] == ["100%"]
    assert any(wide > 400 for cell in cells for wide, _, _ in cell["images"])
    assert any("43 done" in table for cell in cells for table in cell["tables"])
    wait_until(nothing_left, f"nothing is left by the kernels: {block_files()}")
