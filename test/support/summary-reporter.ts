import type { Reporter, TestModule, SerializedError } from "vitest/node";

/** A test that did not run. */
interface SkippedTest {
  readonly fullName: string;
  /** Reason that the test gave when it skipped itself. */
  readonly note?: string | undefined;
}

/**
 * Counts skipped tests by their reasons: what they said themselves, or `(skipped …)` in their names.
 *
 * @returns a line for each reason, the most frequent first
 */
export function skipReasons(skipped: readonly SkippedTest[]): readonly string[] {
  const counts = new Map<string, number>();
  for (const { fullName, note } of skipped) {
    const named = /\(skipped ([^)]+)\)/.exec(fullName)?.[1];
    const reason = note ?? named ?? `without a reason: ${fullName}`;
    counts.set(reason, (counts.get(reason) ?? 0) + 1);
  }
  return [...counts].toSorted(([, a], [, b]) => b - a).map(([reason, count]) => `${count} skipped: ${reason}`);
}

/** Ends the run with the line `N passed, N failed`, and says before it which tests were skipped, and why. */
export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly SerializedError[]): void {
    let passed = 0;
    let failed = errors.length;
    const skipped: SkippedTest[] = [];
    // Tests that a pattern on the command line leaves out have no reason of their own.
    let isFiltered = false;
    for (const module of modules) {
      failed += module.errors().length;
      isFiltered ||= module.project.globalConfig.testNamePattern !== undefined;
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === "passed") passed += 1;
        else if (result.state === "failed") failed += 1;
        else skipped.push({ fullName: test.fullName, note: result.state === "skipped" ? result.note : undefined });
      }
    }
    // The default reporter writes its own closing lines after this hook; ours has to be the last one.
    process.once("exit", () => {
      if (!isFiltered) for (const line of skipReasons(skipped)) console.log(line);
      if (skipped.length > 0) console.log(`${skipped.length} skipped`);
      console.log(`${passed} passed, ${failed} failed`);
    });
  }
}
