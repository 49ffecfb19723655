import { spawn } from "node:child_process";

const COMMANDS: Readonly<Record<string, readonly [command: string, ...args: string[]]>> = {
  darwin: ["open"],
  win32: ["cmd", "/c", "start", ""],
};

/** Shows a page to whoever sits at this terminal, where there is one and a browser; else does nothing. */
export function openBrowser(url: string): void {
  if (!process.stdout.isTTY || process.env["CI"]) return;
  const [command, ...args] = COMMANDS[process.platform] ?? ["xdg-open"];
  const browser = spawn(command, [...args, url], { stdio: "ignore", detached: true });
  // The address was printed; that is enough where nothing opens it.
  browser.on("error", () => undefined).unref();
}
