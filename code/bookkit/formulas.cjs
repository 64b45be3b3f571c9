// Formulas as HTML: `node formulas.cjs FOLDER`, where FOLDER has MathJax. Reads JSON
// from stdin: fonts, the address of MathJax's; scale; formulas, a list of [TeX, whether
// it stands alone]. Writes JSON to stdout: drawn, the HTML of each; style, for all.
const { readFileSync } = require("node:fs");
const { join, resolve } = require("node:path");

const { fonts, scale, formulas } = JSON.parse(readFileSync(0, "utf8"));
require(join(resolve(process.argv[2]), "node-main.js"))
  .init({
    loader: { load: ["input/tex", "output/chtml", "a11y/assistive-mml"] },
    tex: { packages: { "[-]": ["noundefined"] } }, // an unknown command is an error
    chtml: { fontURL: fonts },
  })
  .then(async (MathJax) => {
    const { adaptor } = MathJax.startup;
    const drawn = [];
    for (const [tex, display] of formulas)
      drawn.push(adaptor.outerHTML(await MathJax.tex2chtmlPromise(tex, { display, scale })));
    const style = adaptor.textContent(MathJax.chtmlStylesheet());
    process.stdout.write(JSON.stringify({ drawn, style }));
  });
