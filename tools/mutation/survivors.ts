// Where mutants survived, from a report of Stryker.

interface Position {
  readonly line: number;
  /** From 1. */
  readonly column: number;
}

/** The part of a report that is read here, see https://github.com/stryker-mutator/mutation-testing-elements. */
interface MutationReport {
  readonly files: Readonly<
    Record<
      string,
      {
        readonly mutants: readonly {
          readonly status: string;
          readonly location: { readonly start: Position; readonly end: Position };
        }[];
      }
    >
  >;
}

/** Returns the ranges `path:line:column-line:column` of the mutants that no test noticed. */
export function survivorsOf(report: string): readonly string[] {
  const { files } = JSON.parse(report) as MutationReport;
  const ranges = Object.entries(files).flatMap(([path, { mutants }]) =>
    mutants
      .filter(({ status }) => status === "Survived" || status === "NoCoverage")
      .map(({ location: { start, end } }) => `${path}:${start.line}:${start.column - 1}-${end.line}:${end.column - 1}`),
  );
  return Array.from(new Set(ranges));
}
