/**
 * Repeats an action, never twice at the same time: a slow server must not be asked faster than it answers.
 *
 * @returns the timer, which keeps the process running
 */
export function repeat(everyMs: number, act: () => Promise<void>, onError: (error: unknown) => void): NodeJS.Timeout {
  let isActing = false;
  return setInterval(() => {
    if (isActing) return;
    isActing = true;
    act()
      .catch(onError)
      .finally(() => (isActing = false));
  }, everyMs);
}
