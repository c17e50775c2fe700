#!/usr/bin/env node
// The start file: `node dist/start.js <command> [app.js ...]`, and the package's bin. Every process of a server, master
// and workers alike, begins here.

import { main } from './process/main.ts'

void main()
