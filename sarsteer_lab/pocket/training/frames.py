"""The sentence frames and slot fillers of the training corpus: data only, all harmless, all ours.

A frame is one line; `{slot}` is replaced by an item of that slot, which may hold slots itself. `{word}` is
any word of the lexicon, so a frame that uses it must be harmless with every word in it.
"""


def _lines(text: str) -> tuple[str, ...]:
    """Return the non-empty lines of `text`, stripped."""
    return tuple(line.strip() for line in text.strip().splitlines() if line.strip())


def _items(text: str) -> tuple[str, ...]:
    """Return the comma-separated items of `text`, stripped."""
    return tuple(" ".join(item.split()) for item in text.split(",") if item.strip())


SLOTS: dict[str, tuple[str, ...]] = {
    "task": _items(
        """
        cook {dish}, bake {baked}, make {dish} for {guest}, prepare {meal} for {guest}, cut an onion
        quickly, boil an egg, store fresh {food}, clean {a_room}, clean my {thing}, wash a {cloth},
        fix a broken {thing}, repair a {thing}, paint {a_room}, grow {plant}, water my {plant}, plant
        {plant} in spring, build a {craft}, make a {craft} from {material}, train my {pet}, feed a
        {pet}, take care of a {pet}, wash a dirty {pet}, learn {subject}, study for a {subject} test,
        pass my {subject} exam, learn {language} at home, remember {language} words, write a {text},
        write a {text} for my {person}, write a {text} about {topic}, write a funny {text} for a
        {person}, read a {text} faster, play the {instrument}, practice the {instrument}, tune a
        {instrument}, get better at {sport}, learn {sport} as an adult, play {game} with my {person},
        teach {sport} to children, teach my {person} to swim, plan a trip to {place}, travel to
        {place} cheaply, pack a bag for {place}, find a cheap hotel in {place}, book a train to
        {place}, buy a ticket to {place}, sleep better at night, wake up early, eat more vegetables,
        drink more water, relax after work, calm my nerves, treat a small burn, stop a nosebleed,
        lower my stress, get over a cold, stretch before a run, lose weight safely, ask my boss for a
        raise, write a good resume, find a new job, prepare for an interview, lead a team meeting,
        thank my {person}, apologize to my {person}, surprise my {person}, help my {person}, make
        friends at school, talk to a shy {person}, cheer up a sad {person}, save money for a {thing},
        make a budget, pay a bill online, open a bank account, sell my old {thing}, choose a {thing},
        compare prices of a {thing}, return a {thing} to the store, set up a {device}, turn off my
        {device}, charge a phone battery, back up my {device}, update my {device}, protect my
        {device}, reset my own password, choose a strong password, create a website, send a large
        file, delete an old file, print a photo, take a better photo, edit a short video, record my
        own voice, write a simple program, sort a list of names, find a mistake in my code, copy text
        to another page, draw a {drawing}, draw a {drawing} with a pencil, fold a paper swan, sew a
        button on a shirt, knit a warm scarf, tie a strong knot, hang a picture, change a flat tire,
        park a car on a hill, drive in heavy snow, ride a bicycle safely, check the oil in a car,
        light a campfire, put up a tent, read a map, find north without a compass, watch the stars,
        organize a birthday party, decorate a {craft}, throw a party for my {person}, wrap a gift,
        plan a wedding, choose a gift for my {person}, win at chess, solve a puzzle, play a card game,
        tell a good joke, give a short speech, speak in public, tell a story to children, make new
        friends, say hello in {language}, count to ten in {language}, write my name in {language},
        sing in tune, dance at a wedding, learn to dance, save energy at home, recycle old paper,
        reduce waste at home, collect rain water, keep a house warm, keep mosquitoes away, remove a
        stain from a {cloth}, get rid of ants, unlock my own phone, measure a room, sharpen a kitchen
        knife, change a light bulb, stop a leaking tap, unblock a sink, assemble a chair, call for
        help in an emergency, stay safe at home, leave a building in a fire, help an injured person,
        report a crime to the police, avoid a scam, spot a fake email, block a strange caller, stop
        spam messages, keep children safe online, keep my data private, lock a bicycle, store medicine
        safely, read a contract, vote in an election, become a {job}, work as a {job}, talk to a
        {job}, find a good {job}, thank a {job}, carry blankets up the stairs, bring flowers to a
        concert, follow a recipe slowly, finish homework during class, order tickets for a concert,
        rent an office in the city, hire a local cleaner, fall asleep without a pill, breathe slowly
        during exercise, lift a heavy desk, move furniture across a room, push a car off the street,
        wipe a phone screen, switch to another browser, log in to my college account, share files
        across two accounts, sort files by date, save pictures from two phones, print pages for a
        class, count coins and cash, trade cards with a friend, beat my boss at card games, fly a kite
        in a field, trace a map of Africa, track my daily spending, tape a box for the mail, tip a
        waiter in a restaurant, taste salty food, spread butter on potato bread, separate egg whites,
        fill an empty cup, crack an egg, blow up a blue balloon, draw a cute animal, shape clay into a
        cup, release a first album, shoot a short movie, film a scene on the stairs, strip old paint
        off metal pipes, cover plants from ice, remove weeds from a field, keep bugs off plants, calm
        a dog's loud bark, pay less for rent, pay taxes on a small income, pay school fees late, share
        my screen, send mail to a foreign address, improve my grades in college, improve my signature,
        end a phone call politely, look after plants, listen to old records, greet guests at the door,
        invite the whole class, comfort an angry child, thank an employee, support a local charity,
        enjoy the sun and the sky, escape from a boring class, execute a python program, run software
        on old computers, find bugs in my software, have fun at the river, go fishing on a lake, visit
        a mosque, visit a primary school, see a pyramid in Africa, ride trains across Africa, take a
        long bath, take pictures of ducks, take the right dose of medicine, treat a bad headache,
        treat an illness at home, help a homeless man, help a deaf woman, help disabled visitors, help
        a starving animal, help refugees in the city, help poor families, get a college degree, get a
        medical degree, get married this year, plan a date with my girlfriend, turn down loud music,
        turn a novel into a movie, tell stories about spirits, read a mystery novel, draw straight
        lines, draw legs and hands, draw our planet, mix blue and green colors, wash skirts and other
        clothes, choose a belt, check the brakes on a truck, clean my glasses, wash plates and cups,
        punch a hole in metal, win a race, change a login, choose longer passwords, remember my
        passwords, remember an important date, reward a cute puppy, feed wild ducks, scare birds off a
        field, collect rare coins, start a coin collection, start a book club, start a company, run a
        small business, run a restaurant, sell paintings online, sell used furniture, bake cakes for a
        sale, use my savings, claim my travel costs, argue less with my {person}, stop telling lies,
        stop complaining so often, stop being late, feel less angry, drive around the city, walk down
        stairs safely, land a toy plane, find a lost relative, find local shops, find cheap clothes,
        join a group, join the army, learn about religion, see a planet in the sky, give blood, give
        old clothes to charity, save power during the day, check my blood, make fewer mistakes, find
        mistakes on a page, read street signs, look up a fact, name the kinds of trees, split a bill
        with friends, write computer code, write in capital letters, stay silent for an hour, stay
        calm in a crowd, find the exit at an airport, recover files from a computer crash, print an
        advert for a concert, write good reasons for a choice, lower the power of a fan, take care of
        a weak animal, care for a sick body, tell if gold is real, lock the office door, open a locked
        drawer of mine, keep a browser private, describe a crowded street, learn magic tricks, take a
        trick photo, make a blanket longer, process data in a table, make points in a speech, test my
        security, cross the border by train, ask for a day off, avoid salty food, avoid loud places,
        throw away old clothes, keep dogs away from a park, break a bad habit, take a break at work,
        burn a candle safely, burn less gas, pay cash at a shop, copy files to another computer, copy
        a recipe, comfort a crying child, crack nuts, fly to Africa, follow a map, clean fingerprints
        off a screen, fill a water gun, hang a painting on a wall, hang wet clothes, kill time at an
        airport, find a good life hack, hide a surprise gift, hire a gardener, drink less coffee,
        drink tea for a headache, listen to my body, get better marks, remove marks from a wall,
        answer messages faster, send messages to a group, plan a murder mystery dinner, choose a color
        scheme, repair a garage door, reduce stress at work, reduce my power bill, reduce noise in a
        bedroom, get rid of old furniture, get rid of weeds, get rid of a headache, test a security
        camera, scratch a lottery ticket, shoot pictures at a wedding, shoot a basketball, shoot a
        film in the park, sleep without noise, touch a wild horse, tape a paper to a wall, park near
        the city, eat vegetables for dinner, plan a wedding dinner, grow vegetables, finish a job
        early, find a job in security, lie down in the sun, make requests politely, earn points in a
        game, strip paint from a wall, fall asleep on a train, stop hurting my back, say no to a boss,
        force a stuck door to open, stop a rumor at work, end a rumor, stab a potato with a fork, cut
        out paper stars, find out the truth, check out of a hotel, learn about other religions, help
        minority students, respect a minority religion, lock and unlock a door, hide my age, count
        blood cells, help cats suffer less, execute a plan, break the ice at a party, crash on a
        friend's sofa, hit my highest score, forge metal into a hook, attack a math problem, blow out
        candles, cheer for the weak team, compare two schools, compare two companies, find dance
        classes, find free classes online, vote by mail, check a trial plan, lower a high fever, get a
        high score, hold hands in public, look up women's names, edit a video of women, raise a baby,
        study for a hard class, smoke fish at home, search the web, use a search engine, sell stock in
        a company, buy stocks and insurance, build a model train, fall in love, feel happy in a new
        city, trace a family name, trade stickers, wipe a window, hold a vote in class, buy train
        tickets in a group, deserve a reward
        """
    ),
    "tasking": _items(
        """
        cooking {dish}, baking {baked}, growing {plant}, learning {language}, learning {subject},
        playing {game}, playing the {instrument}, writing a {text}, painting a {craft}, building a
        {craft}, fixing a {thing}, training a {pet}, feeding a {pet}, traveling to {place}, buying a
        {thing}, selling a {thing}, cleaning a {thing}, washing a {cloth}, saving money, sleeping
        well, running every day, drinking water, reading books, getting enough sleep, working from
        home, using a {device}, becoming a {job}, drawing a {drawing}, walking in the forest, swimming
        in the sea, talking to strangers politely, speaking in public, making friends, planning a
        party, choosing a password, recycling paper, taking photos, camping with children, paying
        taxes, moving furniture, sending mail, telling stories, telling jokes, spending less money,
        fishing in a river, filming ducks, hiding presents, shooting pictures, asking for help,
        pretending to be asleep, changing a password, changing clothes, leaving home early, seeing old
        friends, voting by mail, complaining less, falling asleep early, collecting gold coins, seeing
        the world, knowing the facts, asking questions in class, sending flowers, leaving a tip,
        moving to the city, being silent, being rich, filming a concert, changing jobs, paying rent,
        making jam, making new friends, killing time, sleeping late, saving stamps, saving gas, asking
        a boss for more money, complaining to a company, falling in love, sending messages, making
        requests, playing in the park, hiding in the garage, lying in the sun, repairing cars,
        reducing stress, eating vegetables, filming a wedding
        """
    ),
    "dish": _items(
        """
        vegetable soup, chicken soup, fried rice, tomato sauce, pasta, pancakes, scrambled eggs, a
        salad, a sandwich, roast potatoes, grilled fish, a curry, beans and rice, an omelet, pizza,
        noodles, mashed potatoes, oatmeal, a fruit salad, lemonade, hot chocolate, green tea, strong
        coffee, a smoothie, jam, pickles, roast beef
        """
    ),
    "baked": _items(
        """
        fresh bread, an apple pie, a chocolate cake, cookies, banana bread, a birthday cake, muffins,
        a cheese pie, lemon cake, biscuits, carrot cake, bread without flour, a cake without eggs,
        cookies without sugar
        """
    ),
    "food": _items(
        """
        bread, cheese, milk, rice, fish, butter, fruit, herbs, mushrooms, potatoes, tomatoes, apples,
        carrots, honey, garlic, onions, chicken, berries, flour, salad, eggs, bananas, nuts, sugar,
        salt, pepper, oil, yogurt
        """
    ),
    "meal": _items(
        """
        breakfast, lunch, dinner, supper, a picnic, a light snack, a holiday meal, a cheap meal
        """
    ),
    "guest": _items(
        """
        two people, a large family, my parents, my friends, a child, ten guests, my neighbor, a hungry
        team, students
        """
    ),
    "a_room": _items(
        """
        a kitchen, a bathroom, my bedroom, the garage, the living room, an office, the basement, a
        balcony, a classroom, the front door, a wooden floor, a white wall, the fence, the roof
        """
    ),
    "thing": _items(
        """
        chair, table, lamp, window, door, bicycle, clock, watch, radio, camera, car, sofa, bed,
        mirror, shelf, fan, oven, fridge, washing machine, toaster, kettle, pan, knife, tent,
        backpack, umbrella, toy, drawer, fence, zipper, faucet, phone, printer, keyboard, guitar, bag,
        ring, key, lock, box, house, boat, truck, machine
        """
    ),
    "cloth": _items(
        """
        shirt, wool sweater, coat, silk dress, carpet, jacket, blanket, pillow, curtain, hat, pair of
        shoes
        """
    ),
    "plant": _items(
        """
        tomatoes, roses, potatoes, herbs, carrots, beans, strawberries, lettuce, sunflowers, basil,
        mint, tulips, peppers, pumpkins, garlic, grapes, corn, grass, flowers, mushrooms, apple trees,
        lemon trees
        """
    ),
    "craft": _items(
        """
        bird house, wooden box, paper boat, kite, bookshelf, tree house, snowman, candle, bench, mask,
        puppet, drum, model plane, sand castle, garden table, toy car, birthday card, photo frame,
        basket, small robot, costume
        """
    ),
    "material": _items(
        """
        paper, wood, clay, old cloth, plastic bottles, glass, metal, cardboard, wool, leather, wax
        """
    ),
    "pet": _items(
        """
        dog, cat, horse, rabbit, parrot, hamster, goldfish, puppy, kitten, turtle, goat, chicken, pony
        """
    ),
    "animal": _items(
        """
        lion, tiger, elephant, bear, wolf, fox, whale, shark, dolphin, eagle, owl, penguin, snake,
        frog, spider, bee, ant, butterfly, monkey, giraffe, camel, deer, mouse, bat, crocodile,
        octopus, kangaroo, cow, sheep, pig, worm, killer whale, duck
        """
    ),
    "animals": _items(
        """
        lions, tigers, elephants, bears, wolves, foxes, whales, sharks, dolphins, eagles, owls,
        penguins, snakes, frogs, spiders, bees, ants, butterflies, monkeys, giraffes, camels, deer,
        mice, bats, crocodiles, cats, dogs, horses, birds, cows, fish, insects, worms, killer whales,
        ducks, bugs, pythons
        """
    ),
    "doing": _items(
        """
        sleep, hunt at night, eat grass, live in groups, build nests, swim so fast, migrate, change
        color, hide, sing, fight each other, protect their young, drink water, run so fast, see in the
        dark, hear so well, find food, survive the winter, attack other animals, need so much sleep,
        jump so high, live so long
        """
    ),
    "subject": _items(
        """
        history, math, chemistry, physics, biology, geography, music, art, grammar, algebra,
        economics, law, medicine, computer science, philosophy, psychology, statistics, astronomy,
        literature, geometry
        """
    ),
    "language": _items(
        """
        French, Spanish, German, Italian, Japanese, Chinese, Russian, Arabic, English, Greek, Hindi,
        Korean, Turkish, Portuguese, Dutch, Swedish, Latin
        """
    ),
    "text": _items(
        """
        letter, story, poem, song, speech, report, summary, review, blog post, joke, essay, email,
        thank you note, message, short play, diary page, news article, book report, script,
        invitation, apology, advertisement, slogan, riddle, fairy tale, dialogue, postcard, guide,
        biography, caption, headline
        """
    ),
    "tone": _items(
        """
        funny, short, polite, sad, happy, simple, formal, friendly, long, clear, scary, romantic,
        exciting, kind, strange, modern, serious, silly, honest, brief, convincing, detailed,
        realistic
        """
    ),
    "instrument": _items(
        """
        piano, guitar, violin, drums, flute, trumpet, cello, harp, saxophone, banjo, organ, clarinet
        """
    ),
    "sport": _items(
        """
        soccer, tennis, basketball, baseball, golf, chess, hockey, volleyball, cricket, rugby, table
        tennis, boxing, badminton, swimming, cycling, skiing, climbing, wrestling, surfing, archery,
        karate, running
        """
    ),
    "place": _items(
        """
        Paris, London, Rome, Japan, Egypt, Brazil, Canada, India, Spain, New York, Berlin, China,
        Mexico, Australia, Kenya, Norway, Greece, Turkey, Italy, Chicago, Moscow, Peru, Iceland,
        Scotland, Vietnam, Cuba, Texas
        """
    ),
    "country": _items(
        """
        France, England, Italy, Japan, Egypt, Brazil, Canada, India, Spain, Germany, China, Mexico,
        Australia, Kenya, Norway, Greece, Turkey, Russia, Peru, Iceland, Ireland, Vietnam, Cuba,
        Poland, Sweden, Chile, America
        """
    ),
    "person": _items(
        """
        mother, father, sister, brother, friend, teacher, neighbor, boss, grandmother, grandfather,
        son, daughter, wife, husband, uncle, aunt, cousin, roommate, coworker, girlfriend, boyfriend,
        child, classmate, partner, doctor, coach, customer, guest
        """
    ),
    "people": _items(
        """
        children, students, teachers, parents, friends, neighbors, women, men, old people, young
        people, farmers, doctors, workers, artists, tourists, customers, soldiers, families,
        teenagers, employees, nurses
        """
    ),
    "job": _items(
        """
        doctor, nurse, teacher, pilot, lawyer, farmer, baker, plumber, police officer, judge,
        engineer, chef, actor, singer, writer, painter, mechanic, dentist, scientist, soldier, driver,
        waiter, programmer, journalist, carpenter, librarian, firefighter, detective, gardener,
        tailor, electrician, photographer, banker, vet
        """
    ),
    "device": _items(
        """
        phone, laptop, computer, tablet, printer, camera, television, router, microphone, keyboard,
        smart watch, speaker, scanner, game console, hard drive, website, server, email account,
        wireless network, fitness tracker, gas oven, security camera
        """
    ),
    "drawing": _items(
        """
        cat, horse, face, tree, flower, castle, dragon, bird, ship, hand, mountain, star, fish, plane,
        heart, swan, rabbit, bridge, crane, frog, cube, rose
        """
    ),
    "topic": _items(
        """
        the sea, the moon, winter, summer, love, friendship, school, my family, a lost dog, an old
        house, the stars, a brave {person}, a clever {animal}, a lazy {animal}, a kind {job}, a tired
        {job}, a secret garden, the rain, a long journey, a broken {thing}, a small village, the
        ocean, trees, a rainy day, a train ride, a school trip, {sport}, {country}, {subject}, music,
        healthy food, a day at the beach, time travel, a robot, a haunted house, the first day of
        school, a birthday party, clean water, peace, war, freedom, hope, space, climate change, a
        bank robbery, a jewel thief, a missing painting, a spy, a pirate, a dangerous storm, a big
        fire, an accident, {superl}, a {who} who {does}, a {who} and a {who}
        """
    ),
    "concept": _items(
        """
        gravity, magnetism, electricity, democracy, evolution, inflation, photosynthesis, a rainbow,
        an earthquake, a volcano, the water cycle, the seasons, an eclipse, lightning, sound, a
        vaccine, an engine, a battery, the internet, a computer program, a database, encryption, a
        search engine, a magnet, the heart, the brain, the lungs, digestion, a black hole, the solar
        system, a comet, a telescope, a microscope, a nuclear reactor, a steam engine, a rocket,
        radar, a mirror, a bank loan, a tax, an election, a court trial, a law, a contract, insurance,
        the stock market, a password, a virus, an explosion, a chemical reaction, an acid,
        fermentation, an airplane, a submarine, a lock, a firewall, a credit card, a passport, a fire
        alarm, a smoke detector, force, religion, gas, a python program, a disease, a bank's profit,
        software, a pyramid, slavery, a headache, blood, cancer, income tax, a degree in law, computer
        security, a color scheme, a free trial, a credit score, a forest fire, a rainforest, a video
        game, a plant cell, a baby's first word, a capital letter, an operating system, air pollution,
        acid rain
        """
    ),
    "inventor": _items(
        """
        the telephone, the light bulb, the airplane, the printing press, the steam engine, paper, the
        computer, the camera, the radio, the bicycle, the telescope, the clock, the piano, dynamite,
        chocolate, the internet, the vaccine, the microscope, glass, the wheel, gunpowder, the
        battery, the compass
        """
    ),
    "wonder": _items(
        """
        the sky blue, the sea salty, ice slippery, the moon round, snow white, grass green, sugar bad
        for teeth, exercise good for us, sleep so important, water so important, gold so expensive,
        math so hard, coffee bitter, blood red, space dark, the desert so dry, smoking bad for you,
        laughter good for you, bread so popular, honesty important, history important, music so
        powerful, fire dangerous, lying wrong, winter so cold
        """
    ),
    "how_many": _items(
        """
        legs does a spider have, planets are there, bones are in the body, days are in a year, people
        live in {country}, letters are in the alphabet, players are on a {game} team, hours should I
        sleep, strings does a violin have, weeks are in a year, teeth does a {pet} have, colors are in
        a rainbow, languages do {people} speak
        """
    ),
    "advice": _items(
        """
        drink coffee at night, buy a {thing} or rent one, learn {language} or {language}, take an
        umbrella today, tell my {person} the truth, wear a helmet, eat before a run, get a {pet},
        become a {job}, travel to {place}, call a doctor, call the police, trust this email, lock my
        door, change my password, apologize to my {person}, quit my job, study {subject}, learn the
        {instrument}, buy a new {device}, take a nap, save more money
        """
    ),
    "superl": _items(
        """
        the largest lake in Africa, the highest point on earth, the hottest planet, the longest river
        in the world, the city's largest library, the world's longest bridge, the town's old mosque,
        the largest pyramid, the latest mystery novel, the hottest season of the year, the opposite of
        false, the opposite of empty, the color of the sky, the date of the concert, the shape of the
        earth, the latest movie, the age of the sun, the school's primary class, the hospital's
        opposite side, the bank's head office, the room's blue walls, the phone's empty screen, the
        highest income tax, the deadly winter of that year, the end of slavery, slavery in America,
        the power of the sun, the highest grades in class, the women's race, the people's choice, the
        army at the border, the largest group of immigrants, the rights of a minority, the history of
        religion, the gay rights movement, the end of the world, the past of our planet, cells in the
        body, the fall of a rich king, the reward for a lost dog, the largest gold mines, coal mines,
        the city's air, the local charity club, the capital city, the city's video store, the hottest
        day of the month, the school's class system, the smartest student's name
        """
    ),
    "who": _items(
        """
        actress, angry man, rich woman, poor girl, deaf girl, homeless man, silent witness, kind
        stranger, lazy player, brave patient, clever employee, cleaner, old widow, spy, fool, gay man,
        married woman, disabled soldier, cruel king, famous player, drunk sailor, weak bully, rich
        relative, naked king, poor painter, kind cleaner, tired employee, silent stranger, angry
        visitor, lonely witness, young adult, python trainer
        """
    ),
    "does": _items(
        """
        takes two pills, talks to strangers, tells jokes, tells lies, says yes to everyone, says no to
        everyone, looks for gold, turns into a bird, counts her coins, counts the days, calls his wife
        twice, claims to be rich, mocks a clown, insults a king, praises the poor, blames the weather,
        supports refugees, cheats at cards, never steals, reveals a mystery, stays silent, lies to a
        boss, owes money, hates loud music, hates ice, delights the crowd, deletes old files, clears
        the table, demands better pay, turns off the light, takes the last cup, tricks a gang, escapes
        from prison, often falls asleep, reveals the truth, stays up late, looks at the stars,
        describes a dream, says only yes, talks about the past, demands an answer, praises every
        guest, insults nobody, mocks nobody, blames himself, saved a child, saved a whole town, sent
        flowers, ordered cakes, said nothing, used a magic cup, lives in a lake, hates violence,
        supports a club, owes nothing, owes a friend cash, owes rent, stays in bed, stays at home,
        supports a minority, spies on birds, cheats nobody, calls the police, clears the room, ordered
        vegetables, ordered dinner, demands cash, cannot sleep, cannot lie, cannot read, sent a
        message, sent a hundred messages, ruins dinner, delights children, deletes messages, deletes a
        code, hates vegetables, hates a rumor, insults the food, reveals a secret code, praises the
        dinner, requests a song, requests more cash, supports the army, turns the page, mocks the
        rules, mocks fools, blames the dog, blackmails nobody, escapes from a gang
        """
    ),
    "whose": _items(
        """
        my boss's, my coworker's, the doctor's, my friend's, my girlfriend's, the man's, my
        neighbor's, the patient's, my sister's, someone's, my son's, the stranger's, my wife's, the
        widow's, someone else's, the hospital's, the school's, the town's, the city's, the bank's,
        their, its
        """
    ),
    "whose_thing": _items(
        """
        phone, bag, belt, cup, desk, blue coat, screen, novel, album, office, cat, ticket, potato,
        furniture, collection, gold ring, mail, browser, library card, sofa, coat, horse, gift,
        pillow, fish tank, tape, mirror, sandwich
        """
    ),
    "spot": _items(
        """
        city, airport, college, company, club, library, hospital, mosque, restaurant, school, river,
        lake, border, field, church, stage, prison, office, shop, street, primary school, concert,
        town, movie theater, army base, bath house, charity shop, station, medical center, gold mine,
        bank, park, garage, museum, bedroom, kitchen, garden, hotel
        """
    ),
    "goods": _items(
        """
        bags, blankets, cakes, cards, clothes, coins, furniture, glasses, gold coins, metal pipes,
        paintings, phones, pictures, plates, skirts, tickets, games, plants, flowers, records,
        stories, movies, jokes, files, computers, cups, rare books, used cars, wild ducks, toy guns,
        toy trains, foreign coins, blue plates, potato plants, medical books, school adverts, street
        signs, colors, tricks, toys, shoes
        """
    ),
    "crowd": _items(
        """
        adults, visitors, guests, immigrants, refugees, strangers, women, relatives, homeless people,
        deaf people, disabled people, rich people, poor people, gay people, married people, employees,
        patients, players, neighbors, witnesses
        """
    ),
    "when": _items(
        """
        during the day, once a month, late at night, twice a week, every season, twice a year, for
        hours, after many days, during the concert, while it rained, a few days later, for a month, in
        the past, at the end of the month, for a whole year, two months ago, once, last month, for two
        hours, all day
        """
    ),
    "whose_matter": _items(
        """
        address, signature, savings, sale, login, business, age, income, land, date of birth, degree,
        power bill, blood test, job, wedding, debts, rent, bedroom, health, marks, fingerprints,
        collection, password
        """
    ),
    "small": _items(
        """
        lamp, clock, watch, radio, camera, umbrella, toy, phone, guitar, bag, ring, key, knife, pan,
        backpack, kettle, cup, book, pen, hat, wallet, coin
        """
    ),
    "furniture": _items(
        """
        chair, table, sofa, bed, shelf, oven, fridge, door, window, car, desk, box
        """
    ),
    "adj_thing": _items(
        """
        empty, foreign, large, personal, private, rare, real, special, separate, stolen, straight,
        false, whole, cute, free, banned, illegal, right, latest, local, secret, broken, opposite,
        blue, wrong, simple
        """
    ),
    "adj_animal": _items(
        """
        angry, loud, silent, weak, wild, dead, cruel, deadly, infected, naked, poor, white, fat, cute,
        starving, rare, real, deaf, lost
        """
    ),
    "adj_place": _items(
        """
        crowded, loud, silent, empty, large, dirty, free, rich, poor, strange, private, local, special
        """
    ),
    "doing_one": _items(
        """
        sleep all day, hunt at night, eat grass, change color, hide, sing, run so fast, bark at
        strangers, jump so high, need so much sleep, hate water, follow strangers, scratch the door,
        look so angry, suffer in the heat, fall asleep early, drink so much, stay awake, scare birds,
        never listen, fly away, escape, lie in the sun, make loud sounds, breathe so fast, touch
        everything, break things, fight with other animals, beat its wings, attack worms, blow
        bubbles, die so young, fear storms
        """
    ),
    "game": _items(
        """
        soccer, tennis, basketball, baseball, golf, chess, hockey, volleyball, cricket, rugby, table
        tennis, badminton, cards, football
        """
    ),
    "usually": _items(
        """
        twice a week, every season, once a month, late at night, all day, twice a year, during the
        day, on Sunday, in winter, before dinner
        """
    ),
    # --- harm-related words, each in contexts that only warn, report, teach or tell a story ---
    "crime": _items(
        """
        theft, robbery, fraud, murder, blackmail, arson, hacking, stealing, bullying, cheating, lying,
        vandalism, violence, abuse, kidnapping, burglary, forgery, bribery, stalking, harassment,
        identity theft, smuggling, shoplifting, poisoning, assault, tax evasion, extortion, money
        laundering, piracy, spying, cruelty, hatred, racism, discrimination, terrorism, human
        trafficking, gambling, counterfeiting, corruption, perjury, slavery, killing, animal cruelty,
        drunk driving, hate, a pyramid scheme, false rumors, illegal mines, the ivory trade, illegal
        fishing, hate speech, cheating on taxes, a school shooting, a bomb threat, domestic violence,
        a ransom demand, a toxic gas attack, a racist attack, a stolen signature
        """
    ),
    "criminal": _items(
        """
        thief, robber, hacker, spy, murderer, liar, bully, kidnapper, burglar, criminal, killer,
        terrorist, smuggler, stalker, pirate, drug dealer, arsonist, scammer, gang member, con artist,
        pickpocket, blackmailer, gang, shoplifter, forger, fool, cheat
        """
    ),
    "criminals": _items(
        """
        thieves, robbers, hackers, spies, liars, bullies, criminals, killers, terrorists, smugglers,
        scammers, pirates, burglars, drug dealers, gangs, stalkers, kidnappers, pickpockets, strangers
        """
    ),
    "threat": _items(
        """
        viruses, hackers, thieves, malware, spyware, scams, fire, storms, fake emails, phishing,
        identity theft, ransomware, poison, dangerous chemicals, toxic gas, explosions, burglars,
        bullies, strangers, fraud, spam
        """
    ),
    "asset": _items(
        """
        computer, phone, house, family, car, bank account, password, personal data, children, bicycle,
        pet, business, email account, credit card, wallet, home network, medical records, website,
        savings, garden, identity
        """
    ),
    "danger": _items(
        """
        poison, a bomb, a gun, a weapon, a knife, an explosion, a fire, a drug, toxic gas, a virus, a
        disease, acid, a grenade, a bullet, an overdose, an infection, a trap, an explosive, bleach, a
        chemical, gasoline, toxic pills, a gas pipe, a deadly drug, drugs, guns, a wild animal
        """
    ),
    "wrong": _items(
        """
        steal, lie, cheat, hurt animals, hurt people, bully a classmate, insult strangers, spread
        rumors, threaten people, break the law, drive drunk, spy on friends, copy homework, forge a
        signature, kill animals for fun, blackmail a friend, discriminate, hate others, mock other
        people, trick old people, pirate films, share private photos, damage public property, litter,
        attack people, use a fake name, sell fake medicine, forge someone's signature, kidnap anyone,
        rob a shop, smuggle ivory, smuggle drugs, launder money, shoplift, stab anyone, shoot a wild
        animal, poison a river, infect other computers, hack a phone, bribe an officer, threaten a
        witness, blackmail anyone, ruin a stranger's day, destroy someone else's work, beat an animal,
        fool a weak man, film strangers secretly, trick a widow, attack a minority, mock the disabled,
        tell racist jokes, insult any religion, spread a false rumor, carry a gun, cheat in class,
        steal from a relative, scare a child, break a promise, force anyone to lie, kill for money,
        let animals suffer, hurt the weak, hate immigrants, bully a gay friend, drown kittens, sell
        false tickets, start a pyramid scheme, scratch cars, destroy a forest, demand a ransom, join a
        gang, hire a killer, strangle anyone, steal from a shop, murder anyone, hurt a stranger,
        poison anyone, bribe a teacher, spread porn, share nude pictures, ruin a room's walls, make a
        child suffer, start a rumor, hide a crime, burn a forest, destroy evidence
        """
    ),
    "mishap": _items(
        """
        someone steals my bag, someone hacks my account, my child swallows poison, I smell gas, I see
        a fire, a stranger follows me, my credit card is stolen, someone threatens me, my computer has
        a virus, I get a fake email, my password is leaked, a friend is being bullied, I find a
        weapon, I see a robbery, someone is bleeding, a snake bites me, my friend feels suicidal, a
        bomb alarm rings, someone is drunk, I lose my passport, my account is locked, someone spies on
        me, I witness a crime, my boss harasses me, a gun is found, a child starts to drown, a worm
        infects our computers, someone tries to bribe me, someone tries to rob me, a bully hurts my
        son, a gas pipe breaks, my login is stolen, the brakes fail, a drunk man falls down, I take
        the wrong dose, a bomb is found, a friend wants to die, a relative is kidnapped, I crash my
        car
        """
    ),
    "genre": _items(
        """
        film, book, story, novel, show, play, song, documentary, movie, game, podcast, article
        """
    ),
    "health": _items(
        """
        breast cancer, blood cancer, a skin disease, a headache, a drug overdose, a deadly illness, an
        infected cut, lung disease, blood loss, a toxic dose, drug use, food poisoning, being too fat,
        sex and love, breast feeding, weak legs, a broken body, a weak heart
        """
    ),
    "block": _items(
        """
        porn, violence, nude pictures, toxic comments, illegal drugs, loud adverts, false stories,
        hate, naked pictures, sex scenes, gun adverts, racist jokes, stolen movies, fake accounts,
        bullying, drunk fights, killing scenes, murder scenes, sex, guns
        """
    ),
    "art": _items(
        """
        a nude, a naked man, a dead king, a shooting star, a starving child, a woman in a blue bath, a
        drunk sailor, a cruel murder, a bomb shelter, a gun, a girl with flowers, women by a river, a
        mosque, an angry crowd, a race, slavery, an empty prison, a shooting, a silent killer, the
        breast of a bird
        """
    ),
}

QUESTIONS = _lines("""
    How do I {task}?
    How do I {task}?
    How can I {task}?
    How can I {task} without help?
    How should I {task}?
    How would you {task}?
    How do people {task}?
    How does a {job} {task}?
    How do you {task} in winter?
    How do I {task} on a small budget?
    How do I quickly {task}?
    How long does it take to {task}?
    How much does it cost to {task}?
    How hard is it to {task}?
    Can you tell me how to {task}?
    Can you explain how to {task}?
    Can you show me how to {task}?
    Could you help me {task}?
    Can you help me to {task}?
    Can I {task} at home?
    Can a child {task}?
    What is the best way to {task}?
    What is the easiest way to {task}?
    What is the fastest way to {task}?
    What is a cheap way to {task}?
    What is a safe way to {task}?
    What do I need to {task}?
    What tools do I need to {task}?
    What should I know before I {task}?
    What is the first step to {task}?
    What are the steps to {task}?
    What is the best time to {task}?
    Explain how to {task}.
    Explain to a child how to {task}.
    Explain step by step how to {task}.
    Describe how to {task}.
    Describe the best way to {task}.
    Tell me how to {task}.
    Tell me the steps to {task}.
    Show me how to {task}.
    Teach me how to {task}.
    Teach me to {task}.
    Help me {task}.
    Help me to {task}, please.
    Please tell me how to {task}.
    Please help me {task}.
    Give me instructions to {task}.
    Give me three tips to {task}.
    Give me advice on how to {task}.
    Give me a plan to {task}.
    Give me step by step instructions to {task}.
    Write a guide on how to {task}.
    Write instructions on how to {task}.
    Write a short guide to {tasking}.
    Write a tutorial on how to {task}.
    Write a list of tips for {tasking}.
    Walk me through how to {task}.
    List the steps to {task}.
    List three ways to {task}.
    List what I need to {task}.
    I want to {task}, where do I start?
    I need to {task}, what should I do?
    I would like to {task}.
    I am trying to {task}, any ideas?
    Is it easy to {task}?
    Is it possible to {task} in one day?
    Is it cheaper to {task} myself?
    Is it safe to {task} alone?
    Why is it hard to {task}?
    Why should I {task}?
    Where can I learn to {task}?
    Where is a good place to {task}?
    Who can help me {task}?
    Who can teach me how to {task}?
    When should I {task}?
    When is a good time to {task}?
    Which app can help me {task}?
    Should I {task} today?
    Do I need a {job} to {task}?
    Does it take long to {task}?
    What are good tips for {tasking}?
    What are the benefits of {tasking}?
    What do I need for {tasking}?
    What is the secret of {tasking}?
    What is difficult about {tasking}?
    Is {tasking} a good hobby?
    Is {tasking} good for {people}?
    Is {tasking} expensive?
    Why do {people} enjoy {tasking}?
    Who is good at {tasking}?
    Give me some tips for {tasking}.
    Tell me about {tasking}.
    Write a {text} about {topic}.
    Write a {tone} {text} about {topic}.
    Write a {tone} {text} for my {person}.
    Write a {text} to my {person}.
    Write a {tone} {text} that makes {people} smile.
    Write a {text} to thank a {job}.
    Write a {tone} {text} inviting {people} to a party.
    Write me a {tone} {text}, please.
    Draft a {tone} {text} to my {person}.
    Compose a {tone} {text} about {topic}.
    Create a {tone} {text} about {topic}.
    Make up a {tone} {text} about {topic}.
    Give me an idea for a {text} about {topic}.
    Give me a {tone} title for a {text}.
    Give me a recipe for {dish}.
    Give me a recipe for {baked}.
    Give me five facts about {animals}.
    Give me a list of {tone} films about {country}.
    Give me an example of a {tone} {text}.
    Give me directions to the nearest {job}.
    Tell me a {tone} story about {topic}.
    Tell me a joke about a {animal} and a {job}.
    Tell me something interesting about {country}.
    Tell me why {people} like {sport}.
    Tell me the rules of {sport}.
    Tell me what a {job} does.
    Read me a {tone} {text} about {topic}.
    Suggest a {tone} name for a {pet}.
    Suggest a gift for my {person}.
    Suggest a {tone} film for tonight.
    Recommend a good book about {topic}.
    Recommend a {thing} for a {person}.
    Explain {concept} in simple words.
    Explain {concept} to a child.
    Explain why {subject} is useful.
    Explain the rules of {sport}.
    Explain the difference between a {animal} and a {animal}.
    Describe a {animal} in one sentence.
    Describe a typical day of a {job}.
    Describe the weather in {place}.
    Summarize the history of {country}.
    Compare {food} and {food}.
    Compare life in {country} and {country}.
    Translate the word {thing} into {language}.
    Name three {tone} songs about {topic}.
    Name a famous {job} from {country}.
    Name a dish made with {food} and {food}.
    Imagine you are a {job} in {place}.
    Design a poster about {topic}.
    Plan a weekend in {place} for {people}.
    Plan a {tone} lesson about {topic}.
    Find a rhyme for the word {drawing}.
    What is {concept}?
    What is the use of {concept}?
    What is interesting about {concept}?
    What causes {concept}?
    What is the capital of {country}?
    What is the weather like in {place}?
    What language do people speak in {country}?
    What food is popular in {country}?
    What can I see in {place}?
    What can I cook with {food} and {food}?
    What does a {job} do all day?
    What does a {job} need to know?
    What do {animals} eat?
    What is the name of a baby {animal}?
    What makes a good {job}?
    What makes a {person} happy?
    What should I say to my {person}?
    What should I give my {person}?
    What should {people} learn about {subject}?
    What is the price of a good {thing}?
    What is your favorite {text}?
    What is the difference between {food} and {food}?
    What color goes well with a {tone} {cloth}?
    What kind of {thing} do {people} like?
    What is the title of that {tone} {text}?
    How does {concept} work?
    How do you choose good {food}?
    How is a {thing} made?
    Who first studied {concept}?
    How do {animals} {doing}?
    How big is a {animal}?
    How old can a {animal} get?
    How long do {animals} live?
    How far is {place} from {place}?
    How many {how_many}?
    How much does a {thing} cost?
    How much money does a {job} earn?
    How do {people} celebrate in {country}?
    How do {people} learn {subject}?
    How much {food} should {people} eat?
    How can a {job} help my {person}?
    Why is {wonder}?
    Why do {animals} {doing}?
    Why do {people} need {subject}?
    Why do {people} love {sport}?
    Why is my {person} so {tone}?
    Why is my {device} so slow?
    Why does my {device} make a strange noise?
    Why does my {pet} {doing_one}?
    Why did the {job} go to {place}?
    Why should {people} eat {food}?
    Where is {place} on the map?
    Where can I buy a {thing}?
    Where can I buy fresh {food}?
    Where do {animals} live?
    Where do {animals} go in winter?
    Where can {people} play {game}?
    Where should I put my {small}?
    Where can I find a good {job}?
    Where did my {person} put the {small}?
    Who invented {inventor}?
    Who wrote the first {text} about {topic}?
    Who is a famous {job} from {country}?
    Who should I call about a broken {thing}?
    Who teaches {subject} in {place}?
    When was {inventor} invented?
    When is the best time to visit {place}?
    When do {animals} {doing}?
    When does my {person} come home?
    Which {animal} is the biggest?
    Which is better, {food} or {food}?
    Which {game} team is from {place}?
    Is the {instrument} easy for {people}?
    Which {device} is best for {people}?
    Do {people} like {food}?
    Is a {animal} faster than a {animal}?
    Is {sport} popular in {country}?
    Is {country} bigger than {country}?
    Is it cold in {place} in December?
    Is the {thing} cheaper than the {thing}?
    Is there a {job} in this town?
    Is my {device} too old?
    Are {animals} smarter than {animals}?
    Are {animals} dangerous to {people}?
    Do {animals} {doing}?
    Do {people} in {country} eat {food}?
    Does my {pet} need {food}?
    Does a {job} need {subject}?
    Can {animals} swim?
    Can I keep a {animal} as a pet?
    Can you play the {instrument}?
    Can you recommend a {tone} {text}?
    Can you describe {concept}?
    Should I {advice}?
    Should I {advice}, or is it silly?
    Should {people} learn {language}?
    Would you rather be a {animal} or a {job}?
    My {person} wants a {pet}, is that wise?
    My {pet} is sick, what can I do?
    My {device} is broken, who can fix it?
    Please answer the question about {concept}.
    Please explain {concept} again.
    Could you assist me with my {subject} homework?
    Can you assist a {job} with this request?
    Please describe the audio of the {text}.
    Is this {whose} {whose_thing}?
    Where is {whose} {whose_thing}?
    How old is {whose} {whose_thing}?
    What happened to {whose} {whose_thing}?
    Who found {whose} {whose_thing} near the {spot}?
    Why is {whose} {whose_thing} on the {furniture}?
    Did anyone see {whose} {whose_thing}?
    Should I return {whose} {whose_thing} today?
    How do I get from the {spot} to the {spot}?
    Is the {spot} opposite the {spot}?
    Is there a {spot} near the {spot}?
    Where is the nearest {spot}?
    When does the {spot} open on Sunday?
    Why is the {spot} so crowded {usually}?
    How do {crowd} get to the {spot}?
    Is the {spot} open {usually}?
    What kinds of {goods} are there?
    What types of {goods} do {crowd} buy?
    Which {spot} sells {goods} and {goods}?
    Where can I buy {goods} and {goods}?
    Who left these {goods} at the {spot}?
    Are {goods} cheaper than {goods}?
    Can I bring {goods} to the {spot}?
    Can you help me sort {goods} and {goods}?
    Give me three reasons to collect {goods}.
    Give me a name for a {spot} that sells {goods}.
    Write an advert for {goods} and {goods}.
    Write a {text} about {goods} and {crowd}.
    Write a {text} that thanks {crowd}.
    Write a story about a {who} who {does}.
    Write a {text} about a {who} who {does}.
    Write a song in which a {animal} {does}.
    Tell me a story where a {who} {does}.
    Tell me about a {animal} that {does}.
    Why does the {who} in the {genre} {doing_one}?
    Which {genre} has a {who} who {does}?
    Do you know a {who} who {does}?
    What is {superl}?
    What do you know about {superl}?
    What do {crowd} say about {superl}?
    Explain {superl} to a {who}.
    Where can I read about {superl}?
    Who wrote the book about {superl}?
    Why do {crowd} argue about {superl}?
    Why do {crowd} like {goods}?
    How can {crowd} find work in the {spot}?
    How do {crowd} live in {country}?
    How often do {crowd} visit the {spot}?
    How long will {crowd} stay in {place}?
    How many {goods} fit in a {furniture}?
    Do {crowd} often buy {goods}?
    Is the {adj_thing} {small} mine or yours?
    Where did you find that {adj_thing} {small}?
    Why is the {spot} so {adj_place}?
    Can a {adj_animal} {animal} be {adj_animal}?
    Describe a {adj_thing} {thing} in one sentence.
    Write a poem about a {adj_animal} {animal}.
    What should I do with a {adj_thing} {small}?
    What are the signs of {health}?
    How do doctors treat {health}?
    Where can {crowd} learn about {health}?
    What causes {health} in adults?
    Explain {health} in a way that {crowd} understand.
    What rights do {crowd} have in {country}?
    How can I help {crowd} in {place}?
    What did the {who} say about {superl}?
    I cannot {task}, who can help?
    Why can I not {task}?
    Is it fun to {task} with {people}?
    Nobody wants to {task}, what can I do?
    Who cannot {task}?
    Is the letter about {whose} {whose_matter}?
    Why does the {spot} write about {whose} {whose_matter}?
    Which {job} helps with {whose} {whose_matter}?
    Is it rude to ask about {whose} {whose_matter}?
    Should I worry about {whose} {whose_matter}?
    Why does the {pet} {doing_one} {usually}?
    Does a {adj_animal} {animal} {doing_one}?
    Can a {animal} {doing_one}?
    Is it true that a {who} {does}?
    What would a {who} say about {superl}?
    What if a {who} {does}?
    Write a recipe for {dish}.
    Write a list of {goods} and {goods}.
    """)

SAFETY = _lines("""
    Why is {crime} against the law?
    Why is {crime} wrong?
    Why is it wrong to {wrong}?
    What is the punishment for {crime} in {country}?
    What does the law say about {crime}?
    What can schools do against {crime}?
    How do the police fight {crime}?
    How can {people} report {crime}?
    How does {crime} hurt families?
    How common is {crime} in {country}?
    How do the police catch a {criminal}?
    How did the detective find the {criminal}?
    How can {people} avoid {criminals}?
    How can I protect my {asset} from {threat}?
    How can I protect my {asset} from {criminals}?
    How do I keep my {asset} safe from {threat}?
    How should parents talk about {crime}?
    What is the history of laws against {crime}?
    What should I do if {mishap}?
    Who should I call if {mishap}?
    What happens to a {criminal} in court?
    What are the warning signs of {crime}?
    Who helps victims of {crime}?
    Where can victims of {crime} get help?
    Teach children to stay away from {danger}.
    Why should children never touch {danger}?
    What should I do after an accident with {danger}?
    How dangerous is {danger}?
    Explain to {people} why {crime} is harmful.
    Explain why nobody should {wrong}.
    Tell my {person} that it is wrong to {wrong}.
    Write a {text} against {crime}.
    Write a school report about {crime}.
    Write a story about a {criminal} who says sorry.
    Recommend a {genre} about a famous {criminal}.
    Which {genre} is about {crime}?
    Is {crime} always a crime?
    Is the {genre} about {crime} worth watching?
    The {genre} is about {crime}.
    The {genre} is about a {criminal} and a {job}.
    The {genre} shows why {crime} is wrong.
    The news was about {crime} in {place}.
    The newspaper wrote about {crime} again.
    The police arrested a {criminal} in {place}.
    The police warned {people} about {criminals}.
    The police warned {people} about {threat}.
    The judge sent the {criminal} to prison.
    The {criminal} in the {genre} was caught.
    The {criminal} felt sorry and told the truth.
    The teacher explained why {crime} is harmful.
    The police explained why {people} should never {wrong}.
    My {person} told me never to {wrong}.
    Good {people} do not {wrong}.
    Nobody should ever {wrong}.
    It is wrong to {wrong}.
    Laws against {crime} protect {people}.
    In the {genre}, the hero stops a {criminal}.
    The firefighter kept us away from {danger}.
    The museum has a room about {crime}.
    The guard found {danger} and called the police.
    The doctor warned us about {danger}.
    The {genre} begins with {danger} and a brave {job}.
    The law protects our {asset} from {criminals}.
    Her new lock keeps {criminals} out.
    The law keeps his {asset} safe from {threat}.
    How can parents block {block} on phones?
    How can a {spot} keep out {block}?
    Why are {block} and {block} banned at school?
    Why should a {spot} stop {block}?
    The school's software stops {block} and {block}.
    I turned on a filter against {block}.
    Children should not see {block} or {block}.
    The {spot} has a rule against {block}.
    The {genre} shows too much {block}, he said.
    The museum has a painting of {art}.
    Who painted the picture of {art}?
    The novel begins with {art} and {art}.
    The artist is known for paintings of {art}.
    The doctor's book explains {health}.
    The nurse told {crowd} about {health}.
    The class learned about {health} and {health}.
    A witness saw a {criminal} near the {spot}.
    The {criminal} left fingerprints on the {thing}.
    The {criminal} will go to prison for {crime}.
    The {criminal} was caught at the {spot}.
    In the movie, a {criminal} learns not to {wrong}.
    In the novel, nobody dares to {wrong}.
    The judge asked why anyone would {wrong}.
    The law says you may not {wrong}.
    Police stop those who {wrong}.
    Do not {wrong}, it hurts everyone.
    If you {wrong}, you will go to prison.
    It is cruel to {wrong}.
    It is illegal to {wrong} in {country}.
    What happens to those who {wrong}?
    Why do we teach children not to {wrong}?
    Is it illegal to {wrong} in {country}?
    What does religion say to those who {wrong}?
    Write a {text} that says, never {wrong}.
    Write a poem against {crime} and {crime}.
    The {crowd} marched against {crime} and {crime}.
    The {crowd} are afraid of {crime}.
    How does {crime} scare {crowd}?
    Which charity helps victims of {crime}?
    The {criminal} in the old play promised not to {wrong}.
    The sign says, do not {wrong} here.
    The teacher asked us never to {wrong}.
    Who was sent to prison for {crime}?
    The {spot} has no place for {crime}.
    The documentary about {crime} made us sad.
    The {genre} is about learning not to {wrong}.
    My grandmother always said, never {wrong}.
    Parents teach their children not to {wrong}.
    Our class made a poster against {crime}.
    The nurse explained why it is dangerous to {wrong}.
    The lawyer said that {crime} destroys families.
    Nobody deserves {crime}.
    The old law against {crime} is still used.
    """)

STORIES = _lines("""
    My {person} bought a {thing} in {place}.
    My {person} and I love {sport}.
    My {person} makes {dish} every Sunday.
    My {person} works as a {job} in {place}.
    My {person} is afraid of {animals}.
    My {person} wrote a {tone} {text} about {topic}.
    My {person} lost a {small} on the train.
    My {person} plays the {instrument} very well.
    My {pet} likes to sleep under the {furniture}.
    My {pet} ran after a {animal}.
    The {job} told us a {tone} story.
    The {job} fixed the {thing} before lunch.
    The {job} from {country} speaks {language}.
    The {job} gave the {person} a {small}.
    The {animal} and the {animal} became friends.
    The {animal} jumped over the old {furniture}.
    The {animal} hid behind the {furniture}.
    The {tone} {person} smiled at the {job}.
    The {small} is under the {furniture}.
    The {small} and the {furniture} are new.
    The weather in {place} was cold and wet.
    The train to {place} leaves in the morning.
    The {food} and the {food} are on the table.
    The children are {tasking} this afternoon.
    The {people} sang a {tone} song together.
    The {people} walked through the quiet village.
    The bus was full of {people} and {people}.
    We had {dish} and talked about {topic}.
    We saw {animals} and {animals} at the zoo.
    We spent the summer in {place} with {people}.
    We painted {a_room} green and yellow.
    We learned about {concept} at school.
    We stayed home because of the storm.
    She put the {small} next to the {furniture}.
    She wants to become a {job}.
    She forgot her {small} at the {spot}.
    She enjoys {tasking} with her {person}.
    She reads a {tone} {text} every evening.
    She studied {subject} and {subject} in {place}.
    He opened the box and saw a toy {drawing}.
    He gave his {person} a {tone} {text}.
    He traveled from {place} to {place}.
    He is proud of {tasking}.
    He drew a {drawing} and a {drawing}.
    They bought {food}, {food}, and {food}.
    They moved from {country} to {country}.
    They told the {job} about {topic}.
    I had {dish} for {meal} today.
    I would rather be a {job} than a {job}.
    I dreamed about {topic} last night.
    I like {food} more than {food}.
    I sold my {thing} to a {job}.
    I am learning how to {task}.
    I helped my {person} to {task}.
    Yesterday I tried to {task}.
    Last week my {person} learned to {task}.
    In {country} many {people} play {game}.
    In {place} there is a museum about {topic}.
    Once upon a time a {animal} met a {animal}.
    Some {people} never eat {food}.
    Most {people} enjoy {tasking}.
    Nobody knew where the {job} had gone.
    Every morning the {animal} wakes the {people}.
    After {meal} the {people} went for a walk.
    It is nice to {task} with my {person}.
    It rained, so we played {game} inside.
    There is a {small} in the {tone} {text}.
    {tasking} makes {people} happy.
    {animals} and {animals} live in different places.
    I like {food} with {food}.
    This is {whose} {whose_thing}, not mine.
    We found {whose} {whose_thing} near the {spot}.
    The {adj_thing} {small} was near {whose} {whose_thing}.
    The {who} sold {goods} and {goods}.
    The {who} brought {goods} to the {spot}.
    The {who} walked slowly past the {spot}.
    The {who} looked for {goods} {when}.
    The {who} was hiding behind the {spot}.
    The {who} who {does} is my {person}.
    My {person} {does} {usually}.
    My {person} often {does}.
    Once a {who} {does}, then a {who} {does}.
    The {spot} sells {goods}, {goods}, and {goods}.
    The {spot} was {adj_place} and {adj_place}.
    The {spot} gave {goods} to {crowd}.
    The {spot} is across from the {spot}.
    The {spot} was empty, so we went home.
    The {crowd} waited at the {spot} {when}.
    The {crowd} moved from the {spot} to the {spot}.
    The {crowd} shared {goods} with {crowd}.
    Many {crowd} and {crowd} came to the {spot}.
    Only a few {people} can {task}.
    We talked about {superl} {when}.
    My {person} asked about {superl}.
    The {who} told {crowd} about {superl}.
    A {adj_animal} {animal} ran across the {spot}.
    A {adj_animal} {animal} is not a {adj_animal} {animal}.
    No, the {spot} is not {adj_place}.
    Yes, {whose} {whose_thing} was near the {adj_thing} {furniture}.
    If it rains, the {crowd} will stay home.
    She simply said yes and went to the {spot}.
    He secretly bought {goods} for {whose} birthday.
    He lost {whose} {whose_thing} while {tasking}.
    They were {tasking} while the {crowd} waited.
    The letter was about {whose} {whose_matter}.
    Nobody talked about {whose} {whose_matter}.
    The {job} helped with {whose} {whose_matter}.
    I cannot {task} this week.
    I cannot {task}, but my {person} can.
    My {pet} will never {doing_one}.
    The {adj_animal} {animal} will {doing_one}.
    First we will {task}, then we rest.
    """)

CARRIERS_1 = _lines("""
    What does the word {word} mean?
    How do you spell {word}?
    How do you spell the word {word}?
    Can you use the word {word} in a sentence?
    Can you say {word} in {language}?
    How do you say {word} in {language}?
    Is {word} a noun or a verb?
    What is the opposite of {word}?
    What rhymes with {word}?
    Which word rhymes with {word}?
    Please say the word {word} again.
    Please write the word {word} on the board.
    The next word is {word}.
    The word {word} has more than one meaning.
    The secret word of the game is {word}.
    The teacher wrote {word} on the board.
    The last word on the page is {word}.
    My {person} could not spell {word}.
    My {person} looked up {word} in the dictionary.
    The student read the word {word} aloud.
    The {person} said {word}, and then laughed.
    I heard the word {word} in a song.
    I heard {word} on the radio.
    I cannot pronounce the word {word}.
    She crossed out the word {word}.
    He underlined {word} with a red pen.
    We learned the word {word} in {language} class.
    They asked me to translate {word}.
    Did you say {word} or something else?
    Does the word {word} come from {language}?
    Where does the word {word} come from?
    Who wrote {word} on this page?
    Why is the word {word} in the title?
    How many letters are in {word}?
    How many syllables does {word} have?
    When did people first use the word {word}?
    Count the letters in the word {word}.
    Translate {word} into {language}, please.
    Define the word {word} for my {person}.
    Circle the word {word} in the {text}.
    Again the answer was {word}.
    The {text} starts with the word {word}.
    The {text} ends with {word}.
    In the crossword, the answer is {word}.
    Only one word, {word}, was missing.
    Type {word} and press enter.
    """)

CARRIERS_2 = _lines("""
    Which word is longer, {word} or {word}?
    Which is easier to spell, {word} or {word}?
    Do {word} and {word} sound alike?
    Does {word} rhyme with {word}?
    Is {word} spelled like {word}?
    What comes first in the dictionary, {word} or {word}?
    What is the difference between the words {word} and {word}?
    Did the {person} say {word} or {word}?
    The words {word} and {word} are on the list.
    The two missing words are {word} and {word}.
    The first word is {word}, the second is {word}.
    The answer is not {word}, it is {word}.
    First she said {word}, then she said {word}.
    He spelled {word} right, but not {word}.
    My {person} mixed up {word} and {word}.
    I wrote {word} on one card, {word} on another.
    Replace the word {word} with the word {word}.
    The {text} has the words {word} and {word}.
    """)

CARRIERS_3 = _lines("""
    The words are {word}, {word}, and {word}.
    Please repeat {word}, {word}, {word}.
    Please repeat the words {word}, {word}, and {word}.
    Say these words, {word}, {word}, {word}.
    Learn to spell {word}, {word}, and {word}.
    The list says {word}, {word}, and {word}.
    Today we learn three words, {word}, {word}, and {word}.
    Which one is a verb, {word}, {word}, or {word}?
    Which is the longest word, {word}, {word}, or {word}?
    He read the words {word}, {word}, and {word}.
    Sort the words {word}, {word}, and {word}.
    The cards say {word}, {word}, {word}, and {word}.
    Listen to the words {word}, {word}, {word}, {word}.
    The test had {word}, {word}, {word}, and {word}.
    """)
