// Kinds of questions that a model makes itself: how each question begins, and what comes with it.

import type { AnswerFormat } from "@readme-moe/core";

type Json = Readonly<Record<string, unknown>>;

/** Beginning of a question, which the model continues. */
export interface QuestionStart {
  /** First words, to which the model adds. */
  readonly opening: string;
  /** System message that says how the questions are; only the question is made with it. @default none */
  readonly about?: string;
  /** Request whose answer goes on behind the last word of `opening`. @default the user's message goes on */
  readonly asks?: string;
  /** Program of which the question is the head. @default the question is a chat's */
  readonly code?: CodeStart | undefined;
  /** Functions that the answer can call. */
  readonly tools?: readonly Json[] | undefined;
  /** Form that the answer is bound to. */
  readonly format?: AnswerFormat | undefined;
}

/** Example, ends and form of a program that is continued without a chat. */
export interface CodeStart {
  /** Function in front of the head, which shows the style; only the head is made with it. */
  readonly example: string;
  /** Texts that end the head, and what comes in their place. */
  readonly headStops: readonly string[];
  readonly headEnd: string;
  /** Pattern of a whole head, whose match is kept. */
  readonly head: RegExp;
  /** Texts that end the function, and what comes in their place. */
  readonly stops: readonly string[];
  readonly end: string;
}

/** Draws an item of a list. */
export type Draw = <Item>(items: readonly Item[]) => Item;

const split = (list: string): readonly string[] => list.replaceAll("\n", " ").split(", ");

/** Words that openings are filled with. */
export const WORDS: Readonly<Record<"topic" | "verb" | "files" | "deed" | "letter", readonly string[]>> = {
  topic:
    split(`orders, invoices, customers, payments, products, log lines, sensor readings, temperatures, email addresses,
phone numbers, passwords, URLs, file paths, birthdays, calendar events, bookings, flights, hotel rooms, train connections,
recipes, ingredients, students, exam grades, courses, books, library loans, songs, playlists, movies, ratings, product reviews,
comments, blog posts, tags, chat messages, notifications, support tickets, tasks, project milestones, employees, salaries,
departments, work shifts, bank accounts, transactions, exchange rates, stock prices, portfolios, tax records, cart items,
discount codes, shipments, warehouse shelves, suppliers, vehicles, bus routes, GPS points, polygons, circles, colours, pixels,
images, fonts, network packets, sentences, translations, bookmarks, web pages, HTML tables, JSON objects, configuration settings,
environment variables, IP addresses, HTTP headers, cookies, user sessions, user roles, permissions, API responses, cache entries,
feature flags, backups, error reports, game scores, chess moves, playing cards, dice rolls, patients, appointments, prescriptions,
ballots, survey answers, weather reports, plants, animals, coffee shops, concert tickets, gym members`),
  verb: split(`group, filter, sort, count, parse, validate, merge, format, summarize, convert, deduplicate, split, rank, look up,
update, cache, schedule, normalize, aggregate, sample, export`),
  files:
    split(`log files, backups, images, CSV files, JSON files, Python files, TypeScript files, empty folders, symbolic links,
archives, temporary files, PDF files, configuration files, processes, open ports, users, cron jobs, Docker containers, git
branches, git commits, environment variables, disk partitions, services, duplicate files, large files, Markdown files`),
  deed: split(`finds, counts, deletes, renames, compresses, lists, copies, moves, monitors, sorts, backs up`),
  letter:
    split(`Yesterday, On Monday, Dear team, Hello, This is, We, Last week, In March, Our, At 9 a.m., For, Thanks for, After,
There, My name is, I would like, The new, Two, Since`),
};

/** Fields of a schema: name, type and made-up values. */
const FIELDS =
  split(`customer string Anna Keller|Luis Ortega|Mei Tanaka|Sam Brown, company string Nordwind|Acme|Blue Fern|Tessellate,
city string Lisbon|Oslo|Pune|Quito, country string Kenya|Chile|Norway|Japan, email string kim@example.com|info@acme.test, date string
2025-03-14|2024-11-02|2026-07-30, time string 09:30|14:05|20:45, price number 49.9|12.5|1299, amount number 250|18.75|4000,
quantity integer 3|12|40|7, age integer 34|19|62, color string red|dark green|silver, product string desk lamp|running shoes|laptop,
currency string EUR|USD|INR, invoiceNumber string INV-2031|A-5540, department string sales|research|support, role string
engineer|nurse|driver, rating integer 1|4|5, isPaid boolean true|false, isUrgent boolean true|false, tags array new,sale|garden,tools,
title string Winter Garden|The Long Road, author string Ada Lind|Omar Haddad, year integer 1998|2012|2023, duration string 45 minutes|3
days, orderId string 77120|PX-9, status string open|shipped|cancelled, language string German|Hindi|Spanish, weight number 2.4|70|0.35,
participants array Ben,Ruth|Ivan,Lea,Tom, deadline string Friday|1 June, inStock boolean true|false`);

/** Functions: name, parameters, and how questions about them begin. */
const TOOLS: readonly (readonly [string, string, ...string[]])[] = [
  ["get_forecast", "city string, days integer", "What will the weather be like in", "Will it rain in"],
  ["send_email", "to string, subject string, body string", "Send an email to", "Write to"],
  ["convert_currency", "amount number, from string, to string", "How much is", "Convert"],
  ["find_flights", "from string, to string, date string", "Find a flight from", "I need to fly to"],
  ["set_timer", "minutes integer, label string", "Set a timer for", "Remind me in"],
  ["search_products", "query string, max_price number", "Show me", "I am looking for"],
  ["create_event", "title string, date string, time string", "Add a meeting with", "Put into my calendar that"],
  ["translate_text", "text string, language string", "Translate the sentence", "How do you say"],
  ["get_stock_price", "symbol string", "What is the stock price of", "How are the shares of"],
  ["read_file", "path string", "Open the file", "What does the file"],
  ["play_music", "artist string, song string", "Play a song by", "I want to hear"],
  ["book_table", "restaurant string, people integer, time string", "Book a table at", "Reserve dinner for"],
  ["get_directions", "from string, to string, mode string", "How do I get from", "What is the fastest way to"],
  ["list_orders", "customer string, status string", "List all orders of", "Which orders of"],
  ["set_temperature", "room string, degrees number", "Make it warmer in", "Set the heating in"],
];

const JSON_REQUESTS = [
  "Read the text and answer with JSON that matches this schema:",
  "Return the data of this text as a JSON object of the following schema.",
  "Fill this JSON schema from the message below.",
  "Parse the message into JSON. Schema:",
];

/** Openings of kinds; `{topic}` stands for one of `WORDS.topic`. */
const OPENINGS: Readonly<Record<string, readonly string[]>> = {
  python: [
    "Write a Python function that takes a list of {topic} and",
    "Write a Python function to {verb} {topic}",
    "Write a Python class for {topic} with methods that",
    "Write a Python generator that yields {topic}",
    "In Python, how do I {verb} {topic} that",
    "In Python, implement a function that, given {topic},",
  ],
  typescript: [
    "Write a TypeScript function that takes an array of {topic} and",
    "Write a TypeScript function to {verb} {topic}",
    "Define a TypeScript interface for {topic} and write a function that",
    "Write an Express route in TypeScript that returns {topic}",
    "Write an async TypeScript function that loads {topic} and",
    "Write a generic TypeScript function that can {verb} {topic}",
    "In TypeScript, how do I {verb} {topic} that",
  ],
  sql: [
    "Write a SQL query that finds all {topic}",
    "Write a SQL query that counts {topic} per",
    "Write a CREATE TABLE statement for {topic} with",
    "Given tables of {topic} and {topic}, write a SQL query that",
    "In PostgreSQL, how do I {verb} {topic} that",
    "Write an UPDATE statement that changes {topic}",
  ],
  shell: [
    "Write a shell command that {deed} {files}",
    "Write a bash script that {deed} {files} and",
    "On the command line, how do I list {files} that",
    "Write a bash function that takes a folder and {deed} {files}",
    "Give me a single command that {deed} {files} and",
  ],
  documentation: [
    "Write a docstring for a function that takes {topic} and",
    "Write the section of a README that explains how to {verb} {topic}",
    "Write the API documentation of an endpoint that returns {topic}",
    "Write a changelog entry for a release that can {verb} {topic}",
    "Explain to new developers how a program should {verb} {topic} when",
    "Describe the options of a command line tool that can {verb} {topic} and",
  ],
  chat: [
    "What is the difference between {topic} and",
    "Explain in simple words why {topic}",
    "Give me three ideas for {topic}",
    "Can you recommend",
    "Write a short letter about {topic}",
    "How can I",
    "Summarize the advantages of {topic}",
    "What should I know about {topic}",
  ],
};
const OTHER_OPENINGS = [
  "How do I",
  "Explain",
  "What is",
  "Give an example of",
  "Why",
  "I want to",
  "Compare",
  "Write",
  "Can you",
  "Which",
];

/** Names of the kinds that have openings of their own. */
export const KINDS: readonly string[] = [...Object.keys(OPENINGS), "json", "tools", "code"];

/** Composes the beginning of a question. @param kind - one of `KINDS`, or words that complete "questions about" */
export function startQuestion(kind: string, draw: Draw): QuestionStart {
  const fill = (text: string): string =>
    text.replace(/\{(\w+)\}/g, (_, list: string) => draw(WORDS[list as keyof typeof WORDS]));
  if (kind === "json") return startExtraction(draw, fill("{letter}"));
  if (kind === "tools") {
    const [asked, other, third] = [draw(TOOLS), draw(TOOLS), draw(TOOLS)];
    const [, , ...openings] = asked;
    const tools = draw([[asked], [asked, other], [other, asked, third]]);
    return {
      about: "The user asks the assistant to do one thing, with all details.",
      opening: draw(openings),
      tools: [...new Set(tools)].map(describeTool),
    };
  }
  if (kind === "code") {
    const [verb, topic] = [fill("{verb}"), fill("{topic}")];
    const name = `${verb}_${topic}`.toLowerCase().replaceAll(" ", "_");
    const comment = `/** ${verb[0]?.toUpperCase()}${verb.slice(1)} ${topic}`;
    return draw([
      { opening: `def ${name}(`, code: CODE_STARTS.python },
      { opening: comment, code: CODE_STARTS.typescript },
    ]);
  }
  const openings = OPENINGS[kind] ?? OTHER_OPENINGS;
  const about = `The user asks questions about ${kind}. Each is short, precise and complete, without an example or a solution.`;
  return { about, opening: fill(draw(openings)) };
}

/** Asks for a message with made-up facts, and for these facts as JSON. */
function startExtraction(draw: Draw, letter: string): QuestionStart {
  // Few schemas, since each one is compiled.
  const first = FIELDS.indexOf(draw(FIELDS));
  const fields = FIELDS.slice(first, first + 2 + (first % 4)).map((field) => /(\w+) (\w+) (.*)/.exec(field) ?? []);
  const facts = fields.map(([, name = "", type = "", values = ""]) => ({ name, type, value: draw(values.split("|")) }));
  const properties = Object.fromEntries(facts.map(({ name, type }) => [name, schemaOf(type)]));
  const schema = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
  const listed = facts.map(({ name, value }) => `${name}: ${value}`).join(", ");
  return {
    asks: `Write a message of one to three sentences that mentions all of this: ${listed}. Write nothing but the message.`,
    opening: `${draw(JSON_REQUESTS)}\n\n${JSON.stringify(schema)}\n\nText: ${letter}`,
    format: { type: "json_schema", schema },
  };
}

function schemaOf(type: string): Json {
  return type === "array" ? { type, items: { type: "string" } } : { type };
}

function describeTool([name, parameters]: (typeof TOOLS)[number]): Json {
  const properties = Object.fromEntries(
    split(parameters)
      .map((one) => one.split(" "))
      .map(([key = "", type = ""]) => [key, schemaOf(type)]),
  );
  const description = `${name[0]?.toUpperCase()}${name.slice(1).replaceAll("_", " ")}.`;
  const schema = { type: "object", properties, required: Object.keys(properties) };
  return { type: "function", function: { name, description, parameters: schema } };
}

/** Programs that are continued, by language. */
export const CODE_STARTS: Readonly<Record<"python" | "typescript", CodeStart>> = {
  python: {
    example: `from typing import Dict, List, Optional


def limit_to(values: List[float], low: float, high: float) -> List[float]:
    """Return the values with each one limited to the range from low to high.

    >>> limit_to([0.5, 2.0], 0.0, 1.0)
    [0.5, 1.0]
    """
    return [min(max(value, low), high) for value in values]


`,
    headStops: ['    """\n', "\n\n\n"],
    headEnd: '    """\n',
    head: /^def .*?\) -> .*?:\n {4}""".+?"""\n/s,
    // Ends of a function at the left margin, as in HumanEval's paper.
    stops: ["\ndef ", "\nclass ", "\n#", "\nif ", "\nprint", "\n@", "\n```", "\n\n\n"],
    end: "\n",
  },
  typescript: {
    example: `/** Returns the values with each one limited to the range from \`low\` to \`high\`. */
export function limitTo(values: readonly number[], low: number, high: number): number[] {
  return values.map((value) => Math.min(Math.max(value, low), high));
}

`,
    headStops: ["{\n", "\n}"],
    headEnd: "{\n",
    head: /^\/\*\* .*?\*\/\n(?:export )?(?:async )?function .*\{\n$/s,
    stops: ["\n}"],
    end: "\n}\n",
  },
};
