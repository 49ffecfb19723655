import express from "express";
import { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
const engine = await ReadMeEngine.open("/work/wt/ways/models/pocket");
const app = express();
app.use(readMe({ engine }));
const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));