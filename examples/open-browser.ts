import { spawn } from "node:child_process";

const COMMANDS: Readonly<Record<string, readonly [command: string, ...args: string[]]>> = {
  darwin: ["open"],
  win32: ["cmd", "/c", "start", ""],
};

/** Opens a page in the user's browser. Does nothing without a terminal or a browser. */
export function openBrowser(url: string): void {
  if (!process.stdout.isTTY || process.env["CI"]) return;
  const [command, ...args] = COMMANDS[process.platform] ?? ["xdg-open"];
  const browser = spawn(command, [...args, url], { stdio: "ignore", detached: true });
  // The address was printed, which is enough without a browser.
  browser.on("error", () => undefined).unref();
}
