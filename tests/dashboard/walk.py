"""Walks the web pages in headless Chromium: walk.py URL DIRECTORY PATH…

Opens each path wide and narrow, light and dark, and stores a picture of it in the directory. It fails on whatever the
console calls an error, on a breach of the content security policy, on a page that is wider than its window, on text
that can hardly be read, and if a script ran that came with a name, an error or a body. Then it goes through the pages
by keyboard, and looks at them without script.
"""

import pathlib
import shutil
import sys

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

WINDOWS = {"wide": (1280, 900), "narrow": (375, 800)}
SCHEMES = ["light", "dark"]

# Kept from before anything on the page runs.
WATCH = """
window.breaches = [];
addEventListener("securitypolicyviolation", (breach) =>
  breaches.push(`${breach.violatedDirective} ${breach.blockedURI}`));
"""

# Text whose contrast is below that of WCAG AA: 4.5, or 3 where it is large.
FAINT = """
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = numbers(color).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if ((numbers(color)[3] ?? 1) === 1) return color;
  }
  return "rgb(255, 255, 255)";
};
const faint = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest("svg, noscript, [hidden]")) continue;
  if (!element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const [one, other] = [light(style.color), light(ground(element))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (other + 0.05);
  const size = parseFloat(style.fontSize);
  const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (isLarge ? 3 : 4.5)) faint.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim().slice(0, 40)}`);
}
return faint;
"""

problems = []


def need(is_so, problem):
    if not is_so:
        problems.append(problem)


def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    return driver


def look_as(driver, window, scheme):
    width, height = WINDOWS[window]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})


def errors(driver):
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def check(driver, where):
    for error in errors(driver):
        need(False, f"{where}: the console says {error}")
    for breach in driver.execute_script("return window.breaches"):
        need(False, f"{where}: breach of the content security policy: {breach}")
    width = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    need(width[0] <= width[1], f"{where}: the page is {width[0]} wide, its window {width[1]}")
    need(driver.execute_script("return window.ran === undefined"), f"{where}: a script ran that came with a text")
    for faint in driver.execute_script(FAINT):
        need(False, f"{where}: hardly to be read: {faint}")


def picture(driver, directory, name):
    height = driver.execute_script("return Math.min(document.documentElement.scrollHeight, 4000)")
    width = driver.execute_script("return innerWidth")
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.save_screenshot(str(directory / f"{name}.png"))


def open_all(driver, url, paths, directory):
    for window in WINDOWS:
        for scheme in SCHEMES:
            for path in paths:
                look_as(driver, window, scheme)
                driver.get(url + path)
                where = f"{path} ({window}, {scheme})"
                check(driver, where)
                name = path.strip("/").replace("/", "-").replace("?", "-") or "overview"
                picture(driver, directory, f"{name}-{window}-{scheme}")


def press(driver, *keys):
    for key in keys:
        ActionChains(driver).send_keys(key).perform()


def until(driver, what, is_so):
    try:
        WebDriverWait(driver, 20).until(is_so)
    except Exception:  # Whatever kept it from being so is told by what it was to be.
        need(False, f"by keyboard: {what}; now at {driver.current_url}")


def arrives(driver, what, url):
    """A page is there when its script has run too."""
    is_there = "return location.href === arguments[0] && document.readyState === 'complete'"
    until(driver, what, lambda d: d.execute_script(is_there, url))


def by_keyboard(driver, url):
    look_as(driver, "wide", "light")
    driver.get(url + "/")
    press(driver, Keys.TAB)
    until(driver, "the skip link comes first", lambda d: d.switch_to.active_element.get_attribute("class") == "skip")
    outline = driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    need(outline != "none", "by keyboard: what has the focus is not seen")
    press(driver, Keys.ENTER)
    until(driver, "the skip link leads to the content", lambda d: d.current_url.endswith("#main"))
    press(driver, "g", "a")
    arrives(driver, "g a leads to the agents", url + "/agents")
    press(driver, "j")
    link = driver.switch_to.active_element.get_attribute("href") or ""
    need("/agents/" in link, f"by keyboard: j leads to {link}")
    keeps_its_focus(driver, link)
    press(driver, Keys.ENTER)
    arrives(driver, "Enter opens a row", link)
    press(driver, "g", "t")
    arrives(driver, "g t leads to the tasks", url + "/tasks")
    press(driver, "/")
    until(driver, "/ leads to the filter", lambda d: d.switch_to.active_element.get_attribute("name") == "text")
    press(driver, "g", Keys.ESCAPE, "?")
    arrives(driver, "? leads to the help", url + "/help")
    by_theme(driver)


def keeps_its_focus(driver, link):
    rows = "return document.getElementById('rows').innerHTML"
    before = driver.execute_script(rows)
    until(driver, "the list is looked at again", lambda d: d.execute_script(rows) != before)
    now = driver.switch_to.active_element.get_attribute("href")
    need(now == link, f"the focus was on {link}, and after looking again it is on {now}")


def by_theme(driver):
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = driver.execute_script(ground)
    press(driver, "x")
    until(driver, "x turns light into dark", lambda d: d.execute_script(ground) != before)
    chosen = driver.execute_script(ground)
    driver.refresh()
    need(driver.execute_script(ground) == chosen, "the choice of light or dark is not kept")
    press(driver, "x")
    until(driver, "x turns it back", lambda d: d.execute_script(ground) == before)
    for error in errors(driver):
        need(False, f"by keyboard: the console says {error}")


def without_script(driver, url, paths):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    for path in paths:
        driver.get(url + path)
        need(driver.find_elements(By.CSS_SELECTOR, "main h1"), f"{path}: nothing is seen without script")
        need(driver.find_elements(By.CSS_SELECTOR, "nav a[aria-current]"), f"{path}: it is not said where one is")
    driver.get(url + "/")
    need(driver.find_elements(By.CSS_SELECTOR, "#figures strong"), "no figures are seen without script")


def main():
    url, directory, paths = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2]), sys.argv[3:]
    directory.mkdir(parents=True, exist_ok=True)
    driver = browser()
    try:
        open_all(driver, url, paths, directory)
        by_keyboard(driver, url)
        without_script(driver, url, [path for path in paths if "drain" not in path])
    finally:
        driver.quit()
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(paths)} pages, {len(list(directory.glob('*.png')))} pictures in {directory}")


main()
