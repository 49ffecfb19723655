import { firstMinute } from "./first-minute.ts";
import { runProgram } from "./run-program.ts";

await runProgram(() => firstMinute(process.argv.slice(2)));
