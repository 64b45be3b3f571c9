// Ranks the pages with MiniSearch; shows under each page its sections that fit best.
document.addEventListener("DOMContentLoaded", () => {
  const CJK = /[\u3400-\u9fff]/;
  // Words, the parts of names (`flash_attention`, `GatedAttentionUnit`), and for Chinese,
  // which has no spaces, every pair of neighboring characters.
  const tokenize = (text) => {
    const tokens = [];
    for (const word of text.match(/[\u3400-\u9fff]+|[\p{L}\p{N}_]+/gu) ?? []) {
      if (CJK.test(word)) {
        if (word.length === 1) tokens.push(word);
        for (let i = 0; i + 1 < word.length; i++) tokens.push(word.slice(i, i + 2));
        continue;
      }
      tokens.push(word);
      const parts = word.split(/_|(?<=[a-z])(?=[A-Z])/).filter(Boolean);
      if (parts.length > 1) tokens.push(...parts);
    }
    return tokens;
  };
  // "counts" finds "count"
  const processTerm = (term) => {
    const word = term.toLowerCase();
    return word.length > 3 ? word.replace(/(?<!s)s$/, "") : word;
  };

  const pages = window.SEARCH_PAGES;
  const chapters = new MiniSearch({
    fields: ["title", "article", "terms", "names", "headings", "text"],
    idField: "number", tokenize, processTerm,
  });
  chapters.addAll(pages.map((page, number) => ({
    ...page, number,
    headings: page.sections.map((section) => section.heading).join(" ; "),
    text: page.sections.map((section) => section.text).join(" "),
  })));
  const boost = { title: 6, article: 6, terms: 5, names: 5, headings: 3 };
  // The sections of a page that hold most of the words that were found in it.
  const sectionsOf = (page, terms) => {
    const fit = ({ heading, text }) => {
      const [title, words] = [heading.toLowerCase(), text.toLowerCase()];
      const points = terms.map((term) =>
        (title.includes(term) ? 9 : 0) + (words.includes(term) ? 3 : 0)
        + Math.min(2, words.split(term).length - 1));
      return points.reduce((sum, each) => sum + each, 0);
    };
    const ranked = page.sections.map((section) => ({ section, points: fit(section) }));
    return ranked.filter((each) => each.points).sort((a, b) => b.points - a.points);
  };

  const find = (query) => {
    const options = { boost, prefix: (term) => term.length > 3, combineWith: "AND" };
    let found = chapters.search(query, options);
    if (!found.length) found = chapters.search(query, { ...options, combineWith: "OR", fuzzy: 0.2 });
    // The lists of everything hold every word: they come after what explains it.
    const lists = /(claims|code|references|glossary|environment)\.html$/;
    const weight = (hit) => hit.score * (lists.test(pages[hit.id].uri) ? 0.3 : 1);
    return found.sort((a, b) => weight(b) - weight(a));
  };

  const excerpt = (text, terms) => {
    const at = terms.map((term) => text.toLowerCase().indexOf(term)).filter((i) => i >= 0);
    const start = Math.max(0, (at.length ? Math.min(...at) : 0) - 60);
    return (start ? "… " : "") + text.slice(start, start + 180) + " …";
  };

  const show = (query) => {
    const out = document.getElementById("search-results");
    out.replaceChildren();
    if (!query) return;
    const began = performance.now();
    const found = find(query);
    const root = document.documentElement.dataset.content_root ?? "./";
    const add = (parent, tag, text, attributes = {}) => {
      const element = Object.assign(document.createElement(tag), attributes);
      if (text) element.textContent = text;
      return parent.appendChild(element);
    };
    const count = found.length === 1 ? "1 page" : `${found.length} pages`;
    const summary = add(out, "p", found.length ? count : "No page has these words.", {
      className: "search-summary", role: "status",
    });
    const list = add(out, "ol", "", { className: "search" });
    for (const hit of found) {
      const page = pages[hit.id];
      const item = add(list, "li");
      add(item, "a", page.title, { href: root + page.uri });
      if (page.article) add(item, "span", ` ${page.article}`, { className: "search-article", lang: "zh" });
      for (const { section } of sectionsOf(page, hit.terms).slice(0, 2)) {
        const line = add(item, "p", "", { className: "search-section" });
        add(line, "a", section.heading, { href: `${root}${page.uri}#${section.anchor}` });
        add(line, "span", ` ${excerpt(section.text, hit.terms)}`);
      }
    }
    summary.dataset.milliseconds = (performance.now() - began).toFixed(1);
  };

  const query = new URLSearchParams(location.search).get("q") ?? "";
  for (const input of document.querySelectorAll('input[name="q"]')) {
    input.value = query;
    input.addEventListener("input", () => {
      history.replaceState(null, "", `?q=${encodeURIComponent(input.value)}`);
      show(input.value.trim());
    });
  }
  show(query.trim());
});
