// Texts of each kind, which refactoring, tuning and packing read.

import type { DomainText } from "../job/prepare-domain.ts";
import { InvalidArgumentError } from "commander";
import { readDocuments, shortName } from "readme-moe/command-parts";

/** One `NAME=FILE` of the command line. */
export interface DataArgument {
  readonly name: string;
  readonly file: string;
}

/** Parses `NAME=FILE`, or a file whose name without extensions is the domain's, for commander's variadic options. */
export function dataArgument(text: string, previous: readonly DataArgument[] = []): readonly DataArgument[] {
  const [, name = shortName(text), file = text] = /^([^=/\\]+)=(.+)$/s.exec(text) ?? [];
  if (name.trim() === "") throw new InvalidArgumentError("Expected NAME=FILE, such as code=code.jsonl.");
  return [...previous, { name, file }];
}

/** Reads domains. Files with the same name are one domain. @throws {ReadMeError} naming the wrong file */
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
