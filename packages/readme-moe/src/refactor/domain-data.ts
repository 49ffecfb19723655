import { basename } from "node:path";
import type { DomainText } from "@readme-moe/refactor";
import { InvalidArgumentError } from "commander";
import { readDocuments } from "../evaluation/documents.ts";

/** One `NAME=FILE` of the command line. */
export interface DataArgument {
  readonly name: string;
  readonly file: string;
}

/** A parser of `NAME=FILE`, or of a file whose name without extensions is the domain's, for commander's variadic options. */
export function dataArgument(text: string, previous: readonly DataArgument[] | undefined): readonly DataArgument[] {
  const [, name, file] = /^([^=/\\]+)=(.+)$/s.exec(text) ?? [];
  const argument = name === undefined ? { name: shortName(text), file: text } : { name, file: file as string };
  if (argument.name.trim() === "") throw new InvalidArgumentError("Expected NAME=FILE, such as code=code.jsonl.");
  return [...(previous ?? []), argument];
}

function shortName(file: string): string {
  return basename(file)
    .replace(/\.gz$/, "")
    .replace(/\.[^.]+$/, "");
}

/** Files with the same name are one domain. @throws {ReadMeError} naming the file that is not what it should be */
export async function readDomains(data: readonly DataArgument[]): Promise<readonly DomainText[]> {
  const domains = new Map<
    string,
    { readonly files: string[]; readonly documents: string[]; readonly licenses: Set<string> }
  >();
  for (const { name, file } of data) {
    const domain = domains.get(name) ?? { files: [], documents: [], licenses: new Set<string>() };
    domains.set(name, domain);
    domain.files.push(file);
    for (const { text, license } of await readDocuments(file)) {
      domain.documents.push(text);
      if (license !== undefined) domain.licenses.add(license);
    }
  }
  return Array.from(domains, ([name, { licenses, ...domain }]) => ({
    name,
    ...domain,
    licenses: [...licenses].sort(),
  }));
}
