// Six functions, and questions with the function that answers them; `undefined` where none does.

interface BenchTool {
  readonly type: "function";
  readonly function: { readonly name: string; readonly description: string; readonly parameters: object };
}

function tool(name: string, description: string, properties: Readonly<Record<string, object>>): BenchTool {
  const parameters = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
  return { type: "function", function: { name, description, parameters } };
}

const text = (description: string): object => ({ type: "string", description });

export const BENCH_TOOLS: readonly BenchTool[] = [
  tool("get_weather", "Get the current weather of a city", {
    city: text("Name of the city"),
    unit: { enum: ["celsius", "fahrenheit"] },
  }),
  tool("read_file", "Read a file of the project", { path: text("Path of the file") }),
  tool("write_file", "Write a text into a file of the project", {
    path: text("Path of the file"),
    content: text("The whole text"),
  }),
  tool("run_command", "Run a command in the shell and return its output", { command: text("The command line") }),
  tool("search_code", "Search the project's files for a text", {
    query: text("Text to search for"),
    max_results: { type: "integer", minimum: 1, maximum: 50 },
  }),
  tool("create_event", "Add an event to the calendar", {
    title: text("Title of the event"),
    date: { type: "string", format: "date", description: "Day, such as 2025-03-14" },
    attendees: { type: "array", items: { type: "string" } },
  }),
];

export interface BenchCase {
  readonly question: string;
  readonly expected: string | undefined;
}

const QUESTIONS: readonly (readonly [string, string?])[] = [
  ["What is the weather in Rome, in celsius?", "get_weather"],
  ["Show me the contents of src/main.ts.", "read_file"],
  ["Create a file hello.py that prints hello world.", "write_file"],
  ["Run the tests with npm test.", "run_command"],
  ["Find where the function parseDate is used in the project, at most 10 results.", "search_code"],
  ["Put a meeting called Review on 2025-03-14 with Ann and Bob into my calendar.", "create_event"],
  ["What is 2 + 2? Answer with the number only."],
  ["Is it warm in Oslo today? Use fahrenheit.", "get_weather"],
  ["Open package.json and tell me its version.", "read_file"],
  ["Write 'Thanks!' into notes/thanks.txt.", "write_file"],
  ["List the files of the current folder with ls -la.", "run_command"],
  ["Search the code for TODO, 5 results.", "search_code"],
  ["Add the event Dentist on 2025-11-02 with nobody else.", "create_event"],
  ["Say hello in French, in one word."],
  ["How is the weather in Tokyo in celsius?", "get_weather"],
  ["Read the README.md of the project.", "read_file"],
  ["Save a JSON file config.json with the field port set to 8080.", "write_file"],
  ["Show the last commit with git log -1.", "run_command"],
  ["Which files contain the text 'deprecated'? Up to 20.", "search_code"],
  ["Schedule Lunch with Carol on 2026-01-05.", "create_event"],
];

/** Returns so many cases; further rounds ask the same questions with other seeds. */
export function benchCases(count: number): readonly (BenchCase & { readonly seed: number })[] {
  return Array.from({ length: count }, (_, index) => {
    const [question = "", expected] = QUESTIONS[index % QUESTIONS.length] ?? [];
    return { question, expected, seed: index };
  });
}
