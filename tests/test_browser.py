"""The pages in a real browser: headless Chromium, driven by Playwright."""

import io
import re
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import photo
from PIL import Image

from drsformer.inference import Restored
from drsformer_cli.images import DecodedImage
from drsformer_cli.pages.report import Card, Fact, Overview, Report, Sort

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
HOSTILE = '"onerror=alert(1) <script>alert(2)</script>.png'

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),  # one start of it
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: Chromium is not installed"),
]

NAMELESS = """() => [...document.querySelectorAll("a, button, input, select, progress, dialog, output")]
    .filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length
        || document.getElementById(e.getAttribute("aria-labelledby"))))
    .map(e => e.outerHTML)"""

# Of every element with text of its own that is shown: its text, colors, and those of the grounds below it.
TEXTS = """() => [...document.querySelectorAll("body *")]
    .filter(e => e.checkVisibility() && !e.closest("script, option, .only-heard, .divider")
        && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => {
        const grounds = [];
        for (let up = e; up; up = up.parentElement) grounds.push(getComputedStyle(up).backgroundColor);
        return [e.textContent.trim().slice(0, 40), getComputedStyle(e).color, grounds];
    })"""


@pytest.fixture(scope="module")
def chromium():
    playwright.expect.set_options(timeout=20_000)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Open an address; errors in the console and requests to elsewhere fail the test."""
    problems = []

    @contextmanager
    def opened(address, **options):
        context = chromium.new_context(**{"viewport": {"width": 1000, "height": 800}, **options})
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith((address, "data:", "blob:" + address))
                or "/derain" in request.url or problems.append(request.url))  # fmt: skip
        page.goto(address)
        yield page
        context.close()

    yield opened
    assert problems == []


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The address of a report on three images and one failure."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    report = Report(path, 3)
    for i, (name, change) in enumerate(((HOSTILE, 2.0), ("10.png", 9.5), ("9.png", float("nan")))):
        before, after, clean = (DecodedImage(np.full((120, 180, 3), level, np.uint8)) for level in (40, 200, 120))
        report.add(
            Card(
                name,
                {"rainy": before, "clean": clean, "restored": after},
                [Fact("change", "Mean change", str(change), change), Fact("seconds", "Time", f"{i} s", float(i))],
                {"rainy": path.parent / name},
                group="Set, model",
                notes=["a note"],
            )
        )
    sorts = [Sort("Name", "name"), Sort("Most changed first", "change", descending=True), Sort("Fastest", "seconds")]
    overview = Overview("3 images", "Model: tiny", sorts, [("bad.png", "damaged")], choices=("rainy", "clean"))
    report.write(overview, overwrite=False)
    return path.as_uri()


@pytest.fixture(scope="module")
def site():
    """The address of a server whose network halves all values."""
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    from test_serve import serving

    class Half:
        def restore(self, pixels, progress):
            return Restored(pixels // 2, None, 1.0)

    with serving(Half()) as client:
        yield f"http://localhost:{client.port}/"


def wait_until(page, condition):
    """Playwright's wait_for_function evaluates strings in the page, which its policy forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(condition)


def check_divider(page, percent, compare=".compare >> nth=0"):
    """The divider is there, in percent of the image's width, as its range input and as its place say."""
    playwright.expect(page.locator(f"{compare} >> input").first).to_have_value(str(percent))
    box, line = (page.locator(f"{compare}{part}").first.bounding_box() for part in ("", " >> .divider"))
    place = 100 * (line["x"] + line["width"] / 2 - box["x"]) / box["width"]
    assert place == pytest.approx(percent, abs=0.6)


def level(page):
    """The gray level in the middle of the first comparison."""
    shot = Image.open(io.BytesIO(page.locator(".compare").first.screenshot())).convert("L")
    return shot.getpixel((shot.width // 3, shot.height // 3))


def contrast(color, grounds):
    """The contrast ratio of WCAG for a text on grounds, the topmost first."""

    def rgba(text):
        numbers = [float(number) for number in re.findall(r"[\d.]+", text)]
        return np.array(numbers[:3]), numbers[3] if len(numbers) > 3 else 1.0

    ground = np.full(3, 255.0)
    for layer in reversed(grounds):
        values, alpha = rgba(layer)
        ground = alpha * values + (1 - alpha) * ground

    def luminance(values):
        linear = np.where(values <= 0.04045 * 255, values / 255 / 12.92, ((values / 255 + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    light, dark = sorted((luminance(rgba(color)[0]), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def check_accessible(page):
    """Names, alternative texts, language, headings, contrast; and that nothing is wider than the window."""
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title()
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("[...document.images].every(image => image.alt)")
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )
    levels = [int(tag[1]) for tag in page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => e.tagName)")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert max(np.diff(levels), default=0) <= 1
    assert page.evaluate("document.querySelectorAll('main').length") == 1
    texts = page.evaluate(TEXTS)
    assert texts
    assert [(text, color) for text, color, grounds in texts if contrast(color, grounds) < 4.5] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def names(page):
    return page.evaluate("[...document.querySelectorAll('.card')].map(card => card.dataset.name)")


def test_divider_follows_mouse_and_keyboard(opened, report):
    with opened(report) as page:
        check_divider(page, 50)
        box = page.locator(".compare").first.bounding_box()
        x, y = box["x"], box["y"] + box["height"] / 2
        page.mouse.move(x + 0.5 * box["width"], y)
        page.mouse.down()
        page.mouse.move(x + 0.2 * box["width"], y, steps=3)
        check_divider(page, 20)
        page.mouse.move(x - 300, y + 400)  # outside of the image, the button still down
        check_divider(page, 0)
        page.mouse.up()
        page.mouse.move(x + 0.7 * box["width"], y)
        check_divider(page, 0)
        page.mouse.click(x + 0.9 * box["width"], y)
        check_divider(page, 90)
        page.keyboard.press("ArrowLeft")
        check_divider(page, 89)
        page.keyboard.press("Home")
        check_divider(page, 0)
        assert level(page) == pytest.approx(200, abs=3)  # restored
        page.keyboard.press("End")
        assert level(page) == pytest.approx(40, abs=3)  # rainy
        page.get_by_label("clean").check()
        assert level(page) == pytest.approx(120, abs=3)


def test_divider_follows_a_finger(opened, report):
    with opened(report, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844}) as page:
        check_accessible(page)
        page.locator(".compare").first.scroll_into_view_if_needed()
        box = page.locator(".compare").first.bounding_box()
        x, y = box["x"], box["y"] + box["height"] / 2
        page.touchscreen.tap(x + 0.25 * box["width"], y)
        check_divider(page, 25)
        finger = page.context.new_cdp_session(page)

        def touch(kind, *points):
            points = [{"x": x + share * box["width"], "y": y + down} for share, down in points]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (0.25, 0))
        for share in (0.35, 0.5, 0.75):
            touch("touchMove", (share, 0))
        touch("touchEnd")
        check_divider(page, 75)
        scrolled = page.evaluate("scrollY")
        touch("touchStart", (0.75, 0))
        for down in (-30, -80, -150):
            touch("touchMove", (0.75, down))
        touch("touchEnd")
        wait_until(page, f"scrollY > {scrolled}")  # a finger that moves up scrolls the page
        check_divider(page, 75)


def test_sorting(opened, report):
    with opened(report) as page:
        assert names(page) == [HOSTILE, "9.png", "10.png"]
        page.get_by_label("Sort by").select_option("Most changed first")
        assert names(page) == ["10.png", HOSTILE, "9.png"]  # without a number: last
        page.get_by_label("Sort by").select_option("Fastest")
        assert names(page) == [HOSTILE, "10.png", "9.png"]


def test_enlarged_in_a_dialog(opened, report):
    with opened(report) as page:
        small = page.locator(".compare").first.bounding_box()
        page.get_by_role("button", name="Enlarge 9.png").click()
        dialog = page.get_by_role("dialog", name="9.png")
        assert dialog.locator(".compare").bounding_box()["width"] > 1.5 * small["width"]
        page.keyboard.press("ArrowRight")  # the divider has the focus
        check_divider(page, 51, ".zoom .compare")
        check_accessible(page)
        page.get_by_role("button", name="Next").click()
        playwright.expect(page.get_by_role("dialog", name="10.png")).to_be_visible()
        playwright.expect(page.get_by_role("button", name="Next")).to_be_disabled()
        page.keyboard.press("Escape")
        playwright.expect(page.locator(".zoom")).to_be_hidden()
        playwright.expect(page.get_by_role("button", name="Enlarge 10.png")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_is_accessible(opened, report, scheme):
    with opened(report, color_scheme=scheme, reduced_motion="reduce") as page:
        check_accessible(page)
        assert page.get_by_role("heading", name="1 failed").is_visible()
        order = []
        for _ in range(6):
            page.keyboard.press("Tab")
            order.append(page.evaluate("(e => e.ariaLabel || e.labels?.[0]?.textContent.trim() || e.textContent)"
                                       "(document.activeElement)"))  # fmt: skip
            style = "getComputedStyle(document.activeElement.closest('.compare') ?? document.activeElement)"
            assert page.evaluate(f"{style}.outlineStyle") == "solid"  # the focus is visible
        assert order[1] == "rainy"
        assert order[0].startswith("Sort by")
        assert order[2:] == [
            f"Divider before restored, {HOSTILE}",
            f"Rainy file of {HOSTILE}",
            f"Enlarge {HOSTILE}",
            "Divider before restored, 9.png",
        ]


def test_page_to_drop_an_image_on(opened, site, tmp_path):
    path = tmp_path / "<b>rain.png"
    Image.fromarray(photo(80, 120)).save(path)
    with opened(site, color_scheme="dark") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        page.locator("#file").set_input_files(path)
        page.get_by_text("Rain removed from <b>rain.png.").wait_for()
        check_divider(page, 50)
        check_accessible(page)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert download.value.suggested_filename.endswith("rain_derained.png")
        assert np.array_equal(np.asarray(Image.open(download.value.path())), photo(80, 120) // 2)
        page.get_by_role("button", name="Enlarge").click()
        playwright.expect(page.get_by_role("dialog", name="<b>rain.png").locator(".compare")).to_be_visible()
        page.get_by_role("button", name="Close").click()
        page.get_by_label("Format").select_option("TIFF")
        page.get_by_text("This browser cannot show images of this format").wait_for()
        check_accessible(page)


def test_page_shows_errors_and_takes_dropped_images(chromium, site):
    """In its own context: Chromium itself writes the status of a refused request to the console."""
    with chromium.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        page.goto(site)
        drop = """([data, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(data)], name));
            document.querySelector(".drop").dispatchEvent(
                new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }"""
        page.evaluate(drop, [list(b"no image"), "<i>text.png"])
        alert = page.get_by_role("alert")
        playwright.expect(alert).to_have_text(re.compile(r"<i>text\.png: not an image: expected JPEG"))
        check_accessible(page)
