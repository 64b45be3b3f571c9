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
  // What scrolls sideways can be reached and scrolled with the keyboard. An observer
  // is told of a size when there is one; asking would make the browser lay out the page.
  const scrollers = ".table-scroll, .highlight pre, figure.picture, .source-file, .math";
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries)
      if (target.scrollWidth > target.clientWidth + 1) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
  });
  for (const box of document.querySelectorAll(scrollers)) sizes.observe(box);
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
