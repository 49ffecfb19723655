// Express 4. Its types differ from those of Express 5 in nothing that tests use.

declare module "express4" {
  import express from "express";
  export default express;
}
