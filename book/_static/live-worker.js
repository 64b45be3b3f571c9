// CPython in WebAssembly, in a thread of its own: it runs cells, one at a time.
import { loadPyodide } from "./pyodide/pyodide.mjs";

const MOST = 100_000; // characters that one cell may print
const here = new URL("./pyodide/", import.meta.url).href;
let python, page;
let sent = 0;

// Every file that Python asks for on its way up counts towards the progress.
const fetchFile = self.fetch.bind(self);
let loaded = 0;
self.fetch = async (...request) => {
  const answer = await fetchFile(...request);
  if (!answer.ok || !answer.body) return answer;
  const counter = new TransformStream({
    transform(chunk, out) {
      loaded += chunk.length;
      postMessage({ type: "progress", loaded });
      out.enqueue(chunk);
    },
  });
  const { status, headers } = answer;
  return new Response(answer.body.pipeThrough(counter), { status, headers });
};

function say(stream, text) {
  if (sent > MOST || !text) return;
  sent += text.length;
  postMessage({ type: "text", stream, text });
  if (sent > MOST)
    postMessage({ type: "text", stream: "stderr", text: "\n… the rest is not shown\n" });
}

function writerTo(stream) {
  const decoder = new TextDecoder();
  return {
    write(bytes) {
      say(stream, decoder.decode(bytes, { stream: true }));
      return bytes.length;
    },
  };
}

async function start(name) {
  const archive = fetchFile(here + "book.zip");
  python = await loadPyodide({
    indexURL: here,
    packageBaseUrl: here,
    env: {
      HOME: "/home/pyodide",
      BOOK_ROOT: "/book",
      PYTHONDONTWRITEBYTECODE: "1",
    },
  });
  self.fetch = fetchFile;
  const files = await archive;
  if (!files.ok) throw new Error(`book.zip: ${files.status} ${files.statusText}`);
  python.unpackArchive(await files.arrayBuffer(), "zip", { extractDir: "/book" });
  python.runPython("import sys; sys.path.insert(0, '/book/code')");
  python.setStdin({ stdin: () => null }); // nobody types: end of file
  python.setStdout(writerTo("stdout"));
  python.setStderr(writerTo("stderr"));
  const { LivePage } = python.pyimport("bookkit.browser");
  page = LivePage(`/book/${name}.md`, (html) => postMessage({ type: "html", html }));
}

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "start") {
      await start(data.page);
      postMessage({ type: "ready" });
    } else {
      sent = 0;
      const held = page.run_cell(data.number, data.source, data.tags);
      postMessage({ type: "done", held });
    }
  } catch (error) {
    postMessage({ type: "broken", message: String(error.message ?? error) });
  }
};
