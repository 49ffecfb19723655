// Runs a program's tests, each in a new function, and writes the verdict to file 3. The input is JSON:
// {code, tests: [{before, actual, expected}], secret}.
{
  const { readFileSync, writeSync } = require("node:fs");
  const { isDeepStrictEqual, inspect } = require("node:util");
  const exit = process.exit.bind(process);
  const { parse, stringify } = JSON;
  const { code, tests, secret } = parse(readFileSync(0, "utf8"));
  const AsyncFunction = (async () => undefined).constructor;

  const valueOf = (text, before = "") =>
    new AsyncFunction("require", "module", "exports", `${before}\nreturn (${text});`)(require, { exports: {} }, {});

  async function failure({ before, actual, expected }) {
    const program = `${code}\n${before}`;
    if (expected.startsWith("raises ")) {
      const wanted = expected.slice("raises ".length).trim();
      try {
        return `returned ${inspect(await valueOf(actual, program))}`;
      } catch (error) {
        for (let kind = error; kind; kind = Object.getPrototypeOf(kind)) {
          if (kind.constructor?.name === wanted) return undefined;
        }
        return inspect(error).split("\n")[0];
      }
    }
    const value = await valueOf(actual, program);
    return isDeepStrictEqual(value, await valueOf(expected)) ? undefined : `got ${inspect(value)}`;
  }

  void (async () => {
    let [passed, why] = [0, undefined];
    for (const test of tests) {
      try {
        why = await failure(test);
      } catch (error) {
        why = inspect(error).split("\n")[0];
      }
      if (why !== undefined) {
        why = [test.actual, why].join(": ").slice(0, 300);
        break;
      }
      passed++;
    }
    writeSync(3, stringify(why === undefined ? { secret, passed } : { why }));
    exit(0);
  })();
}
