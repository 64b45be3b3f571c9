// CPython in WebAssembly as a command: `node wasm.mjs -m module`, `-c code`, `file`.
// The book is mounted at /book; paths among the arguments are relative to its root.
import { fileURLToPath } from "node:url";
import { loadPyodide } from "pyodide";

const root = fileURLToPath(new URL("../..", import.meta.url));

const python = await loadPyodide({
  args: process.argv.slice(2),
  env: {
    HOME: "/home/pyodide",
    PYTHONINSPECT: "", // or it asks for input at the end
    PYTHONPATH: "/book/code",
    PYTHONDONTWRITEBYTECODE: "1",
  },
  fsInit: async (files) => {
    files.mkdirTree("/book");
    files.mount(files.filesystems.NODEFS, { root }, "/book");
    files.chdir("/book");
  },
});
try {
  // What `python` itself does with its arguments; pinned by package.json.
  process.exitCode = python._module._run_main();
} catch (error) {
  if (error.name !== "ExitStatus") throw error;
  process.exitCode = error.status;
}
