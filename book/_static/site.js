// What the theme leaves to be desired for those who use the keyboard or a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  // The name of a button is what it shows.
  for (const button of document.querySelectorAll(".search-button-field, details.hide > summary"))
    button.removeAttribute("aria-label");
  for (const icon of document.querySelectorAll(".theme-switch")) {
    icon.removeAttribute("title");
    icon.setAttribute("aria-hidden", "true");
  }
  // Roles that docutils gives to a bibliography and that ARIA has given up.
  for (const entry of document.querySelectorAll(".citation-list, .citation"))
    entry.removeAttribute("role");
  // The logo stands outside of every landmark.
  const logo = document.querySelector(".navbar-brand")?.closest(".sidebar-primary-item");
  logo?.setAttribute("role", "navigation");
  logo?.setAttribute("aria-label", "Home");
  // What scrolls sideways can be reached and scrolled with the keyboard. To ask for sizes
  // makes the browser lay out what is far from the screen: a little at a time, when idle.
  const scrollers = ".table-scroll, .pst-scrollable-table-container, .highlight pre, " +
    "figure.picture, .source-file, mjx-container[display]";
  const reach = (box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  const boxes = document.querySelectorAll(scrollers);
  let asked = 0;
  const whenIdle = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
  const askOn = (idle) => {
    while (asked < boxes.length) {
      reach(boxes[asked++]);
      if (!(idle?.timeRemaining() > 30)) break; // of 50 ms: who scrolls now does not wait
    }
    if (asked < boxes.length) whenIdle(askOn);
    else document.documentElement.dataset.scrollers = "known";
  };
  const sizes = new ResizeObserver((changes) => changes.forEach(({ target }) => reach(target)));
  for (const box of boxes) sizes.observe(box);
  addEventListener("load", () => whenIdle(askOn));
  // A listing with the imports and definitions that it needs.
  for (const button of document.querySelectorAll(".copy-alone")) {
    const label = button.textContent;
    button.addEventListener("click", async () => {
      const alone = button.closest(".listing").querySelector("script.alone");
      try {
        await navigator.clipboard.writeText(JSON.parse(alone.textContent));
        button.textContent = "copied";
      } catch {
        button.textContent = "the browser refused";
      }
      setTimeout(() => (button.textContent = label), 2000);
    });
  }
});
