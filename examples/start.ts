import { firstMinute } from "./first-minute.ts";

await firstMinute(process.argv.slice(2));
