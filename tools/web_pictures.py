"""The pictures of the chat page in docs/images: the demo model on the simulator, in a headless Chromium."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import browser  # noqa: E402  the tests' driver
from demo_server import compile_demo, serving  # noqa: E402

QUESTIONS = ("How do I parse JSON in Python?", "What is a generator?")


def main() -> None:
    folder = tempfile.TemporaryDirectory()
    with folder as name, serving(compile_demo(Path(name))) as server, browser(Path(name) / "profile") as page:
        page.size(1040, 800)
        page.prefer("light")
        page.open(f"{server.url}/")
        page.run("""localStorage.setItem("imp.chat", '{"settings": {"temperature": 0}}')""")
        page.reload()
        for i, question in enumerate(QUESTIONS, 1):
            page.until("document.querySelector('#dot.ready')")
            page.click("#prompt")
            page.write(question)
            page.press("Enter")
            page.until(f"document.querySelectorAll('.assistant .note span').length === {i}", 60)
        page.run("document.activeElement.blur()")
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            page.run("new Promise((done) => setTimeout(done, 300))")
            page.screenshot(ROOT / "docs" / "images" / f"chat-{scheme}.png")


if __name__ == "__main__":
    main()
