"""The page in a real browser, if there is one: no wider than a phone, and in the colours that the reader prefers."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_folders import HARDWARE, write_run

from kpeft.methods import BitFit, LoRA
from kpeft.report.__main__ import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """<!doctype html><body><iframe width="%d" height="900" srcdoc="%s"></iframe><script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(each => each.open = true);
  const outside = [...page.querySelectorAll("body *")].filter(each =>
    !each.closest(".scroll, .skip, svg svg, .plot *") && each.getBoundingClientRect().right > root.clientWidth + 0.5);
  const colour = (name, what) => page.defaultView.getComputedStyle(page.querySelector(name))[what];
  document.body.textContent = "RESULT" + JSON.stringify({
    inner: root.clientWidth, width: root.scrollWidth, outside: outside.map(each => each.outerHTML.slice(0, 80)),
    page: colour("body", "backgroundColor"), line: colour(".plot path[style*='var(--c0)']", "stroke"),
    plot: page.querySelector(".plot").getBoundingClientRect().width,
  }) + "END";
};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_page_fits_a_phone_in_light_and_dark(tmp_path: Path) -> None:
    for rank in (4, 8):
        write_run(tmp_path / f"a-long-name-of-a-folder-with-runs-of-rank-{rank}", LoRA(rank=rank), hardware=HARDWARE)
    write_run(tmp_path / "bitfit", BitFit(), preset="/a/" + "very-long-folder-name" * 5, learning_rate=1e-4)
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    seen = {}
    for theme, number in (("light", 1), ("dark", 0)):
        wrapper = tmp_path / f"{theme}.html"
        wrapper.write_text(MEASURE % (360, html.escape(page)), encoding="utf-8")
        assert BROWSER is not None
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / theme}"]
        command += [f"--blink-settings=preferredColorScheme={number}", "--dump-dom", wrapper.as_uri()]
        dumped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.search(r"RESULT(.*?)END", dumped)
        assert found, dumped[:500]
        seen[theme] = json.loads(html.unescape(found[1]))
    for values in seen.values():
        assert values["outside"] == []
        assert values["width"] <= values["inner"] <= 360
        assert 250 < values["plot"] < 360
    assert seen["light"]["page"] == "rgb(255, 255, 255)"
    assert seen["dark"]["page"] == "rgb(21, 23, 27)"
    assert seen["light"]["line"] == "rgb(0, 114, 178)"
    assert seen["dark"]["line"] == "rgb(86, 180, 233)"
