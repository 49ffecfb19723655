import { ReadMeEngine } from "@readme-moe/engine";
import { readMe } from "@readme-moe/express";
import express from "express";

const engine = await ReadMeEngine.open(process.argv[2] ?? "models/pocket-experts");
const app = express();
app.get("/hello", (_request, response) => void response.send("A page of your own"));
app.use(readMe({ engine }));
const server = app.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1", (error) => {
  if (error) throw error;
  console.log("Listening at", server.address());
});
