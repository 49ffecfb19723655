import { commandLine, openLab } from "readme-moe";

/** Returns what the command line says against these arguments. Nothing is done. */
export async function complaintAbout(args: readonly string[]): Promise<string | undefined> {
  const program = commandLine(new AbortController().signal, await openLab());
  let complaint = "";
  for (const command of [program, ...program.commands.flatMap((child) => [child, ...child.commands])]) {
    command.configureOutput({ writeErr: (text) => (complaint += text), writeOut: () => undefined });
    if (command.commands.length === 0) command.action(() => undefined);
  }
  try {
    await program.parseAsync(args, { from: "user" });
    return undefined;
  } catch {
    return complaint.trim() || "refused";
  }
}
